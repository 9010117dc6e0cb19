package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// callMetric is the API server's own measurement of each call of a webhook.
	callMetric = "apiserver_admission_webhook_admission_duration_seconds"
	// callLimit is the bucket of that histogram that the goal is about, in seconds.
	callLimit = 0.005
	// The names of webhooks end so: ours, and that which says yes.
	ourDomain, yesDomain = "aadpodidentity.k8s.io", "yes.example.com"
)

// calls counts what the API server has asked a webhook so far.
type calls struct{ all, withinLimit uint64 }

// share returns the part of the calls since an earlier count that were answered
// within the limit, in percent; not a number if there were none.
func (c calls) share(since calls) float64 {
	return 100 * float64(c.withinLimit-since.withinLimit) / float64(c.all-since.all)
}

// webhookCalls reads the API server's histogram of the webhooks of a domain.
func webhookCalls(ctx context.Context, config *rest.Config, domain string) (calls, error) {
	clientset, err := kubernetes.NewForConfig(config)
	if err != nil {
		return calls{}, fmt.Errorf("client of the API server: %w", err)
	}
	raw, err := clientset.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return calls{}, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(raw))
	if err != nil {
		return calls{}, fmt.Errorf("parsing the API server's metrics: %w", err)
	}
	var sum calls
	for _, metric := range families[callMetric].GetMetric() {
		meant := false
		for _, label := range metric.GetLabel() {
			meant = meant || label.GetName() == "name" && strings.HasSuffix(label.GetValue(), "."+domain)
		}
		if !meant {
			continue
		}
		sum.all += metric.GetHistogram().GetSampleCount()
		for _, bucket := range metric.GetHistogram().GetBucket() {
			if bucket.GetUpperBound() == callLimit {
				sum.withinLimit += bucket.GetCumulativeCount()
			}
		}
	}
	return sum, nil
}
