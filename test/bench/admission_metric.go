package main

import (
	"bytes"
	"context"
	"errors"
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
)

// calls counts what the API server has asked our webhook so far.
type calls struct{ all, withinLimit uint64 }

// share returns the part of the calls since an earlier count that were answered
// within the limit, in percent.
func (c calls) share(since calls) float64 {
	return 100 * float64(c.withinLimit-since.withinLimit) / float64(c.all-since.all)
}

// webhookCalls reads the API server's histogram.
func webhookCalls(ctx context.Context, config *rest.Config) (calls, error) {
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
		ours := false
		for _, label := range metric.GetLabel() {
			ours = ours || label.GetName() == "name" && strings.Contains(label.GetValue(), "aadpodidentity")
		}
		if !ours {
			continue
		}
		sum.all += metric.GetHistogram().GetSampleCount()
		for _, bucket := range metric.GetHistogram().GetBucket() {
			if bucket.GetUpperBound() == callLimit {
				sum.withinLimit += bucket.GetCumulativeCount()
			}
		}
	}
	if sum.all == 0 {
		return calls{}, errors.New("the API server counts no call of the webhook in " + callMetric)
	}
	return sum, nil
}
