package metric

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Namespaces are those of the pods whose requests have series in OperationDuration.
func (n *NMI) Namespaces() map[string]bool {
	series := make(chan prometheus.Metric)
	go func() {
		defer close(series)
		n.OperationDuration.Collect(series)
	}()
	found := map[string]bool{}
	for one := range series {
		var m dto.Metric
		if one.Write(&m) != nil {
			continue // it is not scraped either
		}
		for _, l := range m.GetLabel() {
			if l.GetName() == LabelNamespace && l.GetValue() != "" {
				found[l.GetValue()] = true
			}
		}
	}
	return found
}

// ForgetNamespace drops the series of a namespace's pods.
func (n *NMI) ForgetNamespace(namespace string) {
	n.OperationDuration.DeletePartialMatch(prometheus.Labels{LabelNamespace: namespace})
}
