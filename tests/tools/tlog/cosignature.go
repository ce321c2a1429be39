package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// cosigner verifies C2SP tlog-cosignature's Ed25519 form, which package note does not know.
type cosigner struct {
	name string
	id   uint32
	key  ed25519.PublicKey
}

func newCosigner(name, id string, material []byte) (*cosigner, error) {
	given, err := strconv.ParseUint(id, 16, 32)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(name+"\n"), material...))
	if uint32(given) != binary.BigEndian.Uint32(sum[:]) {
		return nil, errors.New("the key's hash is wrong")
	}
	return &cosigner{name, uint32(given), ed25519.PublicKey(material[1:])}, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.id }

func (c *cosigner) Verify(text, signature []byte) bool {
	if len(signature) != 8+ed25519.SignatureSize {
		return false
	}
	time := binary.BigEndian.Uint64(signature)
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", time, text)
	return ed25519.Verify(c.key, []byte(signed), signature[8:])
}
