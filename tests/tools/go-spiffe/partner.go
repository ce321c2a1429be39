package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"log"
	"math/big"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/go-jose/go-jose/v3/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/federation"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// partnerDomain is the trust domain of the partner, endpointID who serves its bundle, workloadID who calls.
var (
	partnerDomain = spiffeid.RequireTrustDomainFromString("partner.test")
	endpointID    = spiffeid.RequireFromString("spiffe://partner.test/spire/server")
	workloadID    = spiffeid.RequireFromString("spiffe://partner.test/ns/pay/sa/ledger")
)

// root is an authority of the partner.
type root struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// partner is a trust domain of its own: it holds its authorities and what it fetched of the other's bundle.
type partner struct {
	mutex sync.Mutex
	// active signs; next is published beside it, before it signs or after it has; old signed before.
	old, active, next *root
	jwtKey            *ecdsa.PrivateKey
	bundle            *spiffebundle.Bundle
	sequence          uint64
	// others is the other domain's bundle.
	others *spiffebundle.Bundle
	// updates counts what was fetched anew, errors what could not be.
	updates int
	errors  []string
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func newKey() *ecdsa.PrivateKey {
	return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

func serial() *big.Int {
	return must(rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)))
}

func newRoot() *root {
	key, number := newKey(), serial()
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{CommonName: "partner " + number.String()},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		URIs:                  []*url.URL{partnerDomain.ID().URL()},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &root{must(x509.ParseCertificate(der)), key}
}

// mint makes an X.509-SVID under a root.
func (r *root) mint(id spiffeid.ID) *x509svid.SVID {
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: serial(),
		NotBefore:    time.Now().Add(-time.Minute),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URL()},
	}
	der := must(x509.CreateCertificate(rand.Reader, template, r.certificate, key.Public(), r.key))
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{must(x509.ParseCertificate(der))}, PrivateKey: key}
}

// publish makes the bundle of the authorities there are.
func (p *partner) publish() {
	p.sequence++
	bundle := spiffebundle.New(partnerDomain)
	for _, root := range []*root{p.active, p.next} {
		if root != nil {
			bundle.AddX509Authority(root.certificate)
		}
	}
	if err := bundle.AddJWTAuthority("one", crypto.PublicKey(p.jwtKey.Public())); err != nil {
		log.Fatal(err)
	}
	bundle.SetSequenceNumber(p.sequence)
	bundle.SetRefreshHint(time.Second)
	p.bundle = bundle
}

func (p *partner) GetBundleForTrustDomain(domain spiffeid.TrustDomain) (*spiffebundle.Bundle, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.bundle.GetBundleForTrustDomain(domain)
}

// GetX509SVID is what the bundle endpoint shows.
func (p *partner) GetX509SVID() (*x509svid.SVID, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return p.active.mint(endpointID), nil
}

func (p *partner) NextRefresh(time.Duration) time.Duration { return time.Second }

func (p *partner) OnUpdate(bundle *spiffebundle.Bundle) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.updates++
	// The fetcher judges by this very value.
	p.others.SetX509Authorities(bundle.X509Authorities())
}

func (p *partner) OnError(err error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.errors = append(p.errors, err.Error())
}

// token is a JWT-SVID of the workload.
func (p *partner) token() string {
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: p.jwtKey, KeyID: "one"}}
	signer := must(jose.NewSigner(key, new(jose.SignerOptions).WithType("JWT")))
	now := time.Now()
	claims := jwt.Claims{
		Subject:  workloadID.String(),
		Audience: jwt.Audience{"echo"},
		IssuedAt: jwt.NewNumericDate(now),
		Expiry:   jwt.NewNumericDate(now.Add(5 * time.Minute)),
	}
	return must(jwt.Signed(signer).Claims(claims).CompactSerialize())
}

// call asks the server as the workload, with a certificate of the authority that pick says.
func (p *partner) call(server string, id spiffeid.ID, pick func() *root) http.HandlerFunc {
	return func(out http.ResponseWriter, in *http.Request) {
		p.mutex.Lock()
		svid, token := pick().mint(workloadID), p.token()
		p.mutex.Unlock()
		config := tlsconfig.MTLSClientConfig(svid, p.others, tlsconfig.AuthorizeID(id))
		config.NextProtos = []string{"reeve-http/1.1"}
		transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		request := must(http.NewRequest(http.MethodGet, "https://"+server+"/", nil))
		request.Host = in.Host
		if in.URL.RawQuery == "token" {
			request.Header.Set("Authorization", "Bearer "+token)
		}
		relay(out, client, request)
	}
}

// change answers with what is there after a step of a rotation.
func (p *partner) change(step func()) http.HandlerFunc {
	return func(out http.ResponseWriter, _ *http.Request) {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		step()
		others := []string{}
		for _, root := range p.others.X509Authorities() {
			others = append(others, root.SerialNumber.String())
		}
		json.NewEncoder(out).Encode(map[string]any{
			"sequence": p.sequence,
			"roots":    len(p.bundle.X509Authorities()),
			"updates":  p.updates,
			"others":   others,
			"errors":   p.errors,
		})
	}
}

// runPartner is a trust domain of its own, federated with another one both ways by the profile https_spiffe.
//
//	go-spiffe partner LISTEN ENDPOINT BUNDLE-FILE DOMAIN BUNDLE-URL ENDPOINT-SPIFFE-ID SERVER SERVER-SPIFFE-ID
//
// It serves its bundle at ENDPOINT and fetches that of DOMAIN, which begins with BUNDLE-FILE, at BUNDLE-URL. On LISTEN, /bundle is
// its bundle, /status what it holds; /call has a workload of it ask SERVER, with a token after ?token, /old the same by the authority
// before; /prepare, /activate and /retire are the steps of a rotation of its root.
func runPartner(args []string) {
	listen, endpoint, file, domain, at, by := args[0], args[1], args[2], args[3], args[4], args[5]
	server, serverID := args[6], spiffeid.RequireFromString(args[7])
	other := spiffeid.RequireTrustDomainFromString(domain)
	p := &partner{active: newRoot(), jwtKey: newKey(), errors: []string{}}
	p.others = must(spiffebundle.Load(other, file))
	p.publish()
	go func() {
		auth := federation.WithSPIFFEAuth(p.others, spiffeid.RequireFromString(by))
		log.Fatal(federation.WatchBundle(context.Background(), other, at, p, auth))
	}()
	handler := must(federation.NewHandler(partnerDomain, p))
	go func() {
		bundles := &http.Server{Addr: endpoint, Handler: handler, TLSConfig: tlsconfig.TLSServerConfig(p)}
		log.Fatal(bundles.ListenAndServeTLS("", ""))
	}()
	http.Handle("/bundle", handler)
	http.HandleFunc("/call", p.call(server, serverID, func() *root { return p.active }))
	http.HandleFunc("/old", p.call(server, serverID, func() *root { return p.old }))
	http.HandleFunc("/status", p.change(func() {}))
	http.HandleFunc("/prepare", p.change(func() { p.next = newRoot(); p.publish() }))
	http.HandleFunc("/activate", p.change(func() { p.old, p.active, p.next = p.active, p.next, p.active; p.publish() }))
	http.HandleFunc("/retire", p.change(func() { p.next = nil; p.publish() }))
	log.Fatal(http.ListenAndServe(listen, nil))
}
