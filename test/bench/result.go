package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is one figure.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Baseline is the same measurement of the simplest thing that could do the
	// work, taken in the same run; 0 where nothing compares.
	Baseline float64 `json:"baseline"`
	// Ratio is Value through Baseline; 0 without a baseline.
	Ratio float64 `json:"ratio"`
	// Goal in words; empty where the figure is for information.
	Goal string `json:"goal"`
	// Met also where there is no goal.
	Met bool `json:"met"`
}

func figure(name string, value float64, unit string) Result {
	return Result{Name: name, Value: value, Unit: unit, Met: true}
}

func (r Result) against(baseline float64) Result {
	r.Baseline = baseline
	if baseline != 0 {
		r.Ratio = r.Value / baseline
	}
	return r
}

func (r Result) atLeast(goal float64) Result {
	r.Goal, r.Met = fmt.Sprintf("≥ %g %s", goal, r.Unit), r.Value >= goal
	return r
}

func (r Result) atMost(goal float64) Result {
	r.Goal, r.Met = fmt.Sprintf("≤ %g %s", goal, r.Unit), r.Value <= goal
	return r
}

func (r Result) ratioAtLeast(goal float64) Result {
	r.Goal, r.Met = fmt.Sprintf("≥ %g of the baseline", goal), r.Ratio >= goal
	return r
}

func (r Result) ratioAtMost(goal float64) Result {
	r.Goal, r.Met = fmt.Sprintf("≤ %g of the baseline", goal), r.Ratio <= goal
	return r
}

func writeTable(w io.Writer, results []Result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FIGURE\tVALUE\tBASELINE\tRATIO\tGOAL\tMET")
	for _, r := range results {
		baseline, ratio, goal, met := "-", "-", "-", "-"
		if r.Baseline != 0 {
			baseline, ratio = fmt.Sprintf("%.4g", r.Baseline), fmt.Sprintf("%.2f", r.Ratio)
		}
		if r.Goal != "" {
			goal, met = r.Goal, "no"
			if r.Met {
				met = "yes"
			}
		}
		fmt.Fprintf(table, "%s\t%.5g %s\t%s\t%s\t%s\t%s\n", r.Name, r.Value, r.Unit, baseline, ratio, goal, met)
	}
	return table.Flush()
}

func writeJSON(path string, results []Result) error {
	raw, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the results: %w", err)
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the results: %w", err)
	}
	return nil
}

// durations are the latencies of many requests.
type durations []time.Duration

// percentile returns the p-th percentile in milliseconds, p from 0 to 100.
func (d durations) percentile(p float64) float64 {
	if len(d) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(d))
	i := min(int(float64(len(sorted))*p/100), len(sorted)-1)
	return float64(sorted[i]) / float64(time.Millisecond)
}
