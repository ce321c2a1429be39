// Asks OPA what the engine was asked: reads what `authz_cost --export` wrote, writes each policy set in Rego, compares
// every answer, and times each evaluation of a prepared query.
//
// usage: opa FOLDER FIGURES.json
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
)

type rule struct {
	Effect, Kind, Account, Service, Prefix, Network string
	Staff                                           bool
}

type question struct {
	Allowed bool
	Input   map[string]any
}

type figure struct {
	Policies  int     `json:"policies"`
	Requests  int     `json:"requests"`
	Different int     `json:"different"`
	P50       int64   `json:"p50_ns"`
	P99       int64   `json:"p99_ns"`
	PrepareMs int64   `json:"prepare_ms"`
	PerPolicy float64 `json:"bytes_per_policy"`
}

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: opa FOLDER FIGURES.json"))
	}
	files, err := filepath.Glob(filepath.Join(os.Args[1], "rules-*.json"))
	check(err)
	number := regexp.MustCompile(`rules-(\d+)\.json$`)
	var figures []figure
	for _, file := range files {
		size, err := strconv.Atoi(number.FindStringSubmatch(file)[1])
		check(err)
		figures = append(figures, measure(os.Args[1], size))
	}
	slices.SortFunc(figures, func(a, b figure) int { return a.Policies - b.Policies })
	text, err := json.MarshalIndent(figures, "", "  ")
	check(err)
	check(os.WriteFile(os.Args[2], text, 0o644))
	for _, f := range figures {
		if f.Different > 0 {
			fail(fmt.Errorf("%d of %d answers differ at %d policies", f.Different, f.Requests, f.Policies))
		}
	}
}

func measure(folder string, size int) figure {
	var rules []rule
	text, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("rules-%d.json", size)))
	check(err)
	check(json.Unmarshal(text, &rules))
	before := heap()
	began := time.Now()
	query, err := rego.New(rego.Query("data.mesh.allow"), rego.Module("mesh.rego", module(rules))).
		PrepareForEval(context.Background())
	check(err)
	f := figure{Policies: size, PrepareMs: time.Since(began).Milliseconds()}
	f.PerPolicy = float64(heap()-before) / float64(size)
	questions := read(filepath.Join(folder, fmt.Sprintf("requests-%d.jsonl", size)))
	var spans []int64
	// The first round is not timed.
	for round := range 6 {
		for _, q := range questions {
			began := time.Now()
			found, err := query.Eval(context.Background(), rego.EvalInput(q.Input))
			span := time.Since(began).Nanoseconds()
			check(err)
			if round > 0 {
				spans = append(spans, span)
			} else if f.Requests++; found.Allowed() != q.Allowed {
				f.Different++
			}
		}
	}
	slices.Sort(spans)
	f.P50, f.P99 = spans[len(spans)/2], spans[len(spans)*99/100]
	return f
}

// One rule per policy, with equalities of the input that OPA's index of rules looks up.
func module(rules []rule) string {
	var b strings.Builder
	b.WriteString("package mesh\n\ndefault allow := false\n\nallow if {\n\tpermit\n\tnot forbidden\n}\n")
	for _, r := range rules {
		switch {
		case r.Effect == "permit":
			fmt.Fprintf(&b, "\npermit if {\n\tinput.account == %q\n\tinput.service == %q\n", r.Account, r.Service)
			fmt.Fprintf(&b, "\tinput.method in {\"GET\", \"POST\"}\n\tinput.mtls\n\tstartswith(input.path, %q)\n", r.Prefix)
			if r.Staff {
				b.WriteString("\t\"staff\" in input.groups\n")
			}
			b.WriteString("}\n")
		case r.Kind == "write":
			fmt.Fprintf(&b, "\nforbidden if {\n\tinput.service == %q\n", r.Service)
			b.WriteString("\tnot input.method in {\"GET\", \"HEAD\", \"OPTIONS\", \"TRACE\"}\n\tnot input.headers[\"x-tenant\"]\n}\n")
		case r.Kind == "network":
			fmt.Fprintf(&b, "\nforbidden if net.cidr_contains(%q, input.source_ip)\n", r.Network)
		default:
			fail(fmt.Errorf("an unknown rule: %+v", r))
		}
	}
	// So that there is one even when no policy forbids.
	b.WriteString("\nforbidden if false\n")
	return b.String()
}

func read(file string) []question {
	text, err := os.ReadFile(file)
	check(err)
	var found []question
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var q question
		check(json.Unmarshal(lines.Bytes(), &q))
		q.Input["service"] = q.Input["services"].([]any)[0]
		found = append(found, q)
	}
	check(lines.Err())
	return found
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func check(err error) {
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
