// Command tlog verifies an audit log with the Go project's own code for transparency logs, none of which is ours.
//
//	tlog tree DIR KEY [WITNESS-KEY...]   tiles, entries, checkpoint, and paths between all of them
//	tlog proof FILE KEY                  both paths of a proof file
package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tlog:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 3 && args[0] == "tree":
		return checkTree(args[1], args[2], args[3:])
	case len(args) == 3 && args[0] == "proof":
		return checkProof(args[1], args[2])
	}
	return errors.New("usage: tlog tree DIR KEY [WITNESS-KEY...] | tlog proof FILE KEY")
}

// openCheckpoint verifies a C2SP checkpoint: name, size and root under the signatures of every key given.
func openCheckpoint(text []byte, keys ...string) (tlog.Tree, error) {
	var tree tlog.Tree
	var known []note.Verifier
	for _, key := range keys {
		v, err := verifier(strings.TrimSpace(key))
		if err != nil {
			return tree, err
		}
		known = append(known, v)
	}
	n, err := note.Open(text, note.VerifierList(known...))
	if err != nil {
		return tree, err
	}
	if len(n.Sigs) != len(known) {
		return tree, fmt.Errorf("%d of %d keys have signed", len(n.Sigs), len(known))
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != strings.SplitN(keys[0], "+", 2)[0] {
		return tree, errors.New("the checkpoint is of another log")
	}
	return treeOf(lines)
}

func treeOf(lines []string) (tree tlog.Tree, err error) {
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

// tiles reads a folder laid out as C2SP tlog-tiles.
type tiles string

func tilePath(level string, n int64, w int) string {
	path := fmt.Sprintf("%03d", n%1000)
	for n >= 1000 {
		n /= 1000
		path = fmt.Sprintf("x%03d/%s", n%1000, path)
	}
	path = "tile/" + level + "/" + path
	if w < 256 {
		path += ".p/" + strconv.Itoa(w)
	}
	return path
}

func (d tiles) Height() int { return 8 }

func (d tiles) ReadTiles(wanted []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, t := range wanted {
		bytes, err := os.ReadFile(filepath.Join(string(d), tilePath(strconv.Itoa(t.L), t.N, t.W)))
		if err != nil {
			return nil, err
		}
		data = append(data, bytes)
	}
	return data, nil
}

func (d tiles) SaveTiles([]tlog.Tile, [][]byte) {}

// entries reads every entry of the log.
func (d tiles) entries(size int64) ([][]byte, error) {
	var all [][]byte
	for n := int64(0); n*256 < size; n++ {
		w := 256
		if size-n*256 < 256 {
			w = int(size - n*256)
		}
		bundle, err := os.ReadFile(filepath.Join(string(d), tilePath("entries", n, w)))
		if err != nil {
			return nil, err
		}
		for len(bundle) > 0 {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return nil, fmt.Errorf("bundle %d ends within an entry", n)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			all = append(all, bundle[2:end])
			bundle = bundle[end:]
		}
	}
	if int64(len(all)) != size {
		return nil, fmt.Errorf("%d entries, not %d", len(all), size)
	}
	return all, nil
}

func checkTree(dir, key string, witnesses []string) error {
	name := "checkpoint"
	if len(witnesses) > 0 {
		name = "checkpoint.cosigned"
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(text, append([]string{key}, witnesses...)...)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	all, err := tiles(dir).entries(tree.N)
	if err != nil {
		return err
	}
	// Every hash that this reads is proved by the tiles above it, up to the checkpoint's root.
	hashes := tlog.TileHashReader(tree, tiles(dir))
	for at, entry := range all {
		n := int64(at)
		path, err := tlog.ProveRecord(tree.N, n, hashes)
		if err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		if err := tlog.CheckRecord(path, tree.N, tree.Hash, n, tlog.RecordHash(entry)); err != nil {
			return fmt.Errorf("entry %d: %w", n, err)
		}
		before, err := tlog.TreeHash(n+1, hashes)
		if err != nil {
			return fmt.Errorf("tree %d: %w", n+1, err)
		}
		growth, err := tlog.ProveTree(tree.N, n+1, hashes)
		if err != nil {
			return fmt.Errorf("tree %d: %w", n+1, err)
		}
		if err := tlog.CheckTree(growth, tree.N, tree.Hash, n+1, before); err != nil {
			return fmt.Errorf("tree %d: %w", n+1, err)
		}
	}
	fmt.Printf("tree of %d entries, %d witnesses\n", tree.N, len(witnesses))
	return nil
}

// path is what stands in a C2SP tlog-proof.
type path struct {
	index  int64
	hashes tlog.RecordProof
	rest   []byte
}

func parsePath(text string) (p path, err error) {
	head, rest, found := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return p, errors.New("not a tlog-proof")
	}
	p.rest = []byte(rest)
	if p.index, err = strconv.ParseInt(lines[1][len("index "):], 10, 64); err != nil {
		return p, err
	}
	for _, line := range lines[2:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return p, err
		}
		p.hashes = append(p.hashes, hash)
	}
	return p, nil
}

func checkProof(file, key string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var proof struct {
		Record, Batch string
		RecordInBatch string `json:"record_in_batch"`
		BatchInLog    string `json:"batch_in_log"`
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&proof); err != nil {
		return err
	}
	outer, err := parsePath(proof.BatchInLog)
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(outer.rest, key)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	leaf := tlog.RecordHash([]byte(proof.Batch))
	if err := tlog.CheckRecord(outer.hashes, tree.N, tree.Hash, outer.index, leaf); err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	var header struct {
		Count int64
		Root  string
	}
	if err := json.Unmarshal([]byte(proof.Batch), &header); err != nil {
		return err
	}
	inner, err := parsePath(proof.RecordInBatch)
	if err != nil {
		return err
	}
	batch, err := treeOf(strings.Split(string(inner.rest), "\n"))
	if err != nil {
		return err
	}
	if batch.N != header.Count || fmt.Sprintf("%x", batch.Hash[:]) != header.Root {
		return errors.New("the header names another tree")
	}
	leaf = tlog.RecordHash([]byte(proof.Record))
	if err := tlog.CheckRecord(inner.hashes, batch.N, batch.Hash, inner.index, leaf); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	fmt.Printf("record %d of batch %d in a tree of %d\n", inner.index, outer.index, tree.N)
	return nil
}

// verifier is that of package note, or for C2SP's cosignature/v1 one beside it.
func verifier(key string) (note.Verifier, error) {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) == 3 {
		material, err := base64.StdEncoding.DecodeString(parts[2])
		if err == nil && len(material) == 33 && material[0] == 4 {
			return newCosigner(parts[0], parts[1], material)
		}
	}
	return note.NewVerifier(key)
}
