// Command go-spiffe is a workload with the stock go-spiffe library, which knows the mesh only by the Workload API at
// SPIFFE_ENDPOINT_SOCKET.
//
//	go-spiffe LISTEN SERVER SPIFFE-ID
//
// It answers on LISTEN: /fresh with what SERVER, which must have the SPIFFE ID, answers on a new connection, /kept on one
// that is kept; /seen with what the library holds and has held, as JSON. With `partner` it is a trust domain of its own instead
// (partner.go).
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// seen is what the Workload API said; the lists are in the order in which it did.
type seen struct {
	mutex sync.Mutex
	// Serials of our certificates.
	Serials []string `json:"serials"`
	// Our trust domain's roots now, by their hashes, and all that there ever were.
	Roots []string `json:"roots"`
	Ever  []string `json:"roots_ever"`
	// The roots of every trust domain now.
	Domains map[string][]string `json:"domains"`
	Errors  []string            `json:"errors"`
}

func (s *seen) OnX509ContextUpdate(update *workloadapi.X509Context) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	svid := update.DefaultSVID()
	s.Serials = with(s.Serials, svid.Certificates[0].SerialNumber.String())
	s.Domains = map[string][]string{}
	for _, bundle := range update.Bundles.Bundles() {
		roots := []string{}
		for _, root := range bundle.X509Authorities() {
			hash := sha256.Sum256(root.Raw)
			roots = append(roots, hex.EncodeToString(hash[:]))
		}
		s.Domains[bundle.TrustDomain().String()] = roots
	}
	s.Roots = s.Domains[svid.ID.TrustDomain().String()]
	for _, root := range s.Roots {
		s.Ever = with(s.Ever, root)
	}
}

func (s *seen) OnX509ContextWatchError(err error) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.Errors = append(s.Errors, err.Error())
}

func with(list []string, one string) []string {
	for _, other := range list {
		if other == one {
			return list
		}
	}
	return append(list, one)
}

// toServer passes a request on over mTLS by what `source` holds.
func toServer(source *workloadapi.X509Source, server string, id spiffeid.ID, fresh bool) http.HandlerFunc {
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	config.NextProtos = []string{"reeve-http/1.1"}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: fresh}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	return func(out http.ResponseWriter, in *http.Request) {
		request, err := http.NewRequest(http.MethodGet, "https://"+server+"/", nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Host = in.Host
		relay(out, client, request)
	}
}

// relay answers as the server does.
func relay(out http.ResponseWriter, client *http.Client, request *http.Request) {
	answer, err := client.Do(request)
	if err != nil {
		http.Error(out, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	out.WriteHeader(answer.StatusCode)
	io.Copy(out, answer.Body)
}

func main() {
	if os.Args[1] == "partner" {
		runPartner(os.Args[2:])
		return
	}
	listen, server, id := os.Args[1], os.Args[2], spiffeid.RequireFromString(os.Args[3])
	ctx := context.Background()
	client, err := workloadapi.New(ctx)
	if err != nil {
		log.Fatal(err)
	}
	watched := &seen{Serials: []string{}, Roots: []string{}, Ever: []string{}, Errors: []string{}}
	go func() { log.Fatal(client.WatchX509Context(ctx, watched)) }()
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/fresh", toServer(source, server, id, true))
	http.HandleFunc("/kept", toServer(source, server, id, false))
	http.HandleFunc("/seen", func(out http.ResponseWriter, _ *http.Request) {
		watched.mutex.Lock()
		defer watched.mutex.Unlock()
		json.NewEncoder(out).Encode(watched)
	})
	log.Fatal(http.ListenAndServe(listen, nil))
}
