package metric

import (
	"sort"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

// The names are what dashboards of the 1.8 releases query.
func TestContractNames(t *testing.T) {
	mic, nmi := prometheus.NewRegistry(), prometheus.NewRegistry()
	m, n := NewMIC(mic), NewNMI(nmi)
	m.CloudDuration.WithLabelValues(OpVMGet)
	m.CloudErrors.WithLabelValues(OpVMGet)
	m.KubernetesAPIErrors.WithLabelValues("x")
	n.OperationDuration.WithLabelValues("a", "b", "c", "d")
	n.IMDSDuration.WithLabelValues("x")
	n.IMDSErrors.WithLabelValues("x")
	n.KubernetesAPIErrors.WithLabelValues("x")
	tests := map[string]struct {
		reg  *prometheus.Registry
		want []string
	}{
		"MIC": {mic, []string{
			"aadpodidentity_assigned_identity_addition_count", "aadpodidentity_assigned_identity_addition_duration_seconds",
			"aadpodidentity_assigned_identity_deletion_count", "aadpodidentity_assigned_identity_deletion_duration_seconds",
			"aadpodidentity_assigned_identity_update_count", "aadpodidentity_assigned_identity_update_duration_seconds",
			"aadpodidentity_cloud_provider_operations_duration_seconds", "aadpodidentity_cloud_provider_operations_errors_count",
			"aadpodidentity_kubernetes_api_operations_errors_count", "aadpodidentity_mic_cycle_count",
			"aadpodidentity_mic_cycle_duration_seconds", "aadpodidentity_mic_new_leader_election_count",
		}},
		"NMI": {nmi, []string{
			"aadpodidentity_imds_operations_duration_seconds", "aadpodidentity_imds_operations_errors_count",
			"aadpodidentity_kubernetes_api_operations_errors_count", "aadpodidentity_nmi_operations_duration_seconds",
			"aadpodidentity_nmi_redirect_repairs_count", "aadpodidentity_nmi_waiting_requests", // new
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			families, err := tc.reg.Gather()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range families {
				got = append(got, f.GetName())
			}
			sort.Strings(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("names (-want +got):\n%s", diff)
			}
		})
	}
}
