// Feeds JSON lines to a Tessera log in a folder, one entry a line, and prints what that takes: until all of it is under a
// published checkpoint, to check the whole log (Tessera's own fsck), to prove an entry, and on the disk.
//
// usage: tessera RECORDS.jsonl FOLDER [BATCH]
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/transparency-dev/merkle/rfc6962"
)

const origin = "bench.reeve.dev/tessera"

func main() {
	if len(os.Args) < 3 {
		check(fmt.Errorf("usage: tessera RECORDS.jsonl FOLDER [BATCH]"))
	}
	batch := uint64(tessera.DefaultBatchMaxSize)
	if len(os.Args) > 3 {
		var err error
		batch, err = strconv.ParseUint(os.Args[3], 10, 16)
		check(err)
	}
	ctx := context.Background()
	secret, public, err := note.GenerateKey(rand.Reader, origin)
	check(err)
	signer, err := note.NewSigner(secret)
	check(err)
	verifier, err := note.NewVerifier(public)
	check(err)
	driver, err := posix.New(ctx, posix.Config{Path: os.Args[2]})
	check(err)
	options := tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithCheckpointInterval(time.Second).
		WithBatching(uint(batch), 250*time.Millisecond).
		WithPushback(uint(64 * batch))
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, options)
	check(err)

	began, used := time.Now(), processor()
	records, plain := feed(ctx, appender, os.Args[1], int(32*batch))
	for {
		checkpoint, _, _, err := client.FetchCheckpoint(ctx, reader.ReadCheckpoint, verifier, origin)
		if err == nil && checkpoint.Size >= records {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	took, cpu := time.Since(began), processor()-used
	check(shutdown(ctx))

	began, used = time.Now(), processor()
	checker := fsck.New(origin, verifier, reader, leaves, fsck.Opts{N: uint(runtime.NumCPU())})
	check(checker.Check(ctx))
	checked, checkedCPU := time.Since(began), processor()-used

	figures := map[string]any{
		"records": records, "batch": batch, "plain_bytes_per_record": float64(plain) / float64(records),
		"published_per_s": float64(records) / took.Seconds(), "cpu_us_per_record": perRecord(cpu, records),
		"fsck_per_s": float64(records) / checked.Seconds(), "fsck_cpu_us_per_record": perRecord(checkedCPU, records),
		"prove_ms": prove(ctx, reader, records), "disk_bytes_per_record": float64(size(os.Args[2])) / float64(records),
	}
	check(json.NewEncoder(os.Stdout).Encode(figures))
}

// feed adds each line, and waits for the oldest when `ahead` are on their way.
func feed(ctx context.Context, appender *tessera.Appender, path string, ahead int) (records uint64, plain int) {
	file, err := os.Open(path)
	check(err)
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(make([]byte, 1<<16), 1<<20)
	futures := make(chan tessera.IndexFuture, ahead)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for future := range futures {
			_, err := future()
			check(err)
		}
	}()
	for lines.Scan() {
		line := slices.Clone(lines.Bytes())
		plain += len(line) + 1
		records++
		futures <- appender.Add(ctx, tessera.NewEntry(line))
	}
	check(lines.Err())
	close(futures)
	<-done
	return records, plain
}

// leaves are the leaf hashes of an entry bundle.
func leaves(text []byte) ([][]byte, error) {
	var bundle api.EntryBundle
	if err := bundle.UnmarshalText(text); err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(bundle.Entries))
	for _, entry := range bundle.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}

// prove is the median time of twenty proofs of inclusion, each by a builder of its own, in milliseconds.
func prove(ctx context.Context, reader tessera.LogReader, records uint64) float64 {
	var times []time.Duration
	for n := range uint64(20) {
		began := time.Now()
		builder, err := client.NewProofBuilder(ctx, records, reader.ReadTile)
		check(err)
		_, err = builder.InclusionProof(ctx, records*n/20)
		check(err)
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return float64(times[len(times)/2].Microseconds()) / 1000
}

func size(folder string) (bytes int64) {
	check(filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	}))
	return bytes
}

// processor is the processor time of this process.
func processor() time.Duration {
	var usage syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func perRecord(cpu time.Duration, records uint64) float64 {
	return float64(cpu.Microseconds()) / float64(records)
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
