// Package metric defines the Prometheus metrics of the components. Names,
// labels and buckets of the 1.8 releases are kept, so that dashboards and alerts
// go on working. No label takes a value that a pod can choose freely.
package metric

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Namespace is the prefix of all metrics.
const Namespace = "aadpodidentity"

// Label names.
const (
	LabelOperation  = "operation_type"
	LabelStatusCode = "status_code"
	LabelNamespace  = "namespace"
	LabelResource   = "resource"
	LabelErrorCode  = "error_code"
	LabelCall       = "call"
	LabelReason     = "reason"
	LabelResult     = "result"
)

// Values of LabelCall.
const (
	CallRead  = "read"
	CallWrite = "write"
)

// Values of LabelOperation.
const (
	OpVMGet      = "vm_get"
	OpVMUpdate   = "vm_update"
	OpVMSSGet    = "vmss_get"
	OpVMSSUpdate = "vmss_update"

	OpAssignedIdentityAddition = "assigned_identity_addition"
	OpAssignedIdentityDeletion = "assigned_identity_deletion"
	OpAssignedIdentityUpdate   = "assigned_identity_update"
	OpAssignedIdentityStatus   = "update_azure_assigned_identity_status"
	// OpConditions is writing conditions of AzureIdentities and
	// AzureIdentityBindings.
	OpConditions = "update_conditions"

	// OpTokenMSI and OpTokenUserAssigned are token requests to IMDS for the
	// node's system-assigned and for a user-assigned identity.
	OpTokenMSI          = "adal_token_msi"
	OpTokenUserAssigned = "adal_token_msi_userassignedid"
	// OpToken is token requests to Azure AD for a service principal.
	OpToken = "adal_token"
	// OpSecret is reading the Secret of a service principal.
	OpSecret = "get_secret"
)

// buckets, in seconds, of the 1.8 releases.
var (
	assignmentBuckets = []float64{.01, .02, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, 1, 2, 3, 4, 5, 10}
	requestBuckets    = []float64{.5, 1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100}
	cycleBuckets      = []float64{.5, 1, 5, 10, 30, 60, 120, 300, 600, 900, 1200}
)

// NewRegistry makes a registry with the Go runtime and process metrics.
func NewRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// MIC is the metrics of MIC.
type MIC struct {
	AssignedIdentityAdditionDuration prometheus.Histogram
	AssignedIdentityAdditions        prometheus.Counter
	AssignedIdentityDeletionDuration prometheus.Histogram
	AssignedIdentityDeletions        prometheus.Counter
	AssignedIdentityUpdateDuration   prometheus.Histogram
	AssignedIdentityUpdates          prometheus.Counter

	CycleDuration       prometheus.Histogram
	Cycles              prometheus.Counter
	NewLeaderElections  prometheus.Counter
	CloudDuration       *prometheus.HistogramVec // by LabelOperation
	CloudErrors         *prometheus.CounterVec   // by LabelOperation
	KubernetesAPIErrors *prometheus.CounterVec   // by LabelOperation

	// New. Error codes are a fixed set, and statuses those that ARM answers with.
	CloudErrorsByCode *prometheus.CounterVec   // by LabelOperation, LabelErrorCode
	ARMRequests       *prometheus.CounterVec   // by LabelCall, LabelStatusCode
	ARMBudgetWait     *prometheus.HistogramVec // by LabelCall
}

// NewMIC registers the metrics of MIC.
func NewMIC(reg prometheus.Registerer) *MIC {
	m := &MIC{
		AssignedIdentityAdditionDuration: histogram("assigned_identity_addition_duration_seconds", "Duration of creating an AzureAssignedIdentity, in seconds.", assignmentBuckets),
		AssignedIdentityAdditions:        counter("assigned_identity_addition_count", "AzureAssignedIdentities created."),
		AssignedIdentityDeletionDuration: histogram("assigned_identity_deletion_duration_seconds", "Duration of deleting an AzureAssignedIdentity, in seconds.", assignmentBuckets),
		AssignedIdentityDeletions:        counter("assigned_identity_deletion_count", "AzureAssignedIdentities deleted."),
		AssignedIdentityUpdateDuration:   histogram("assigned_identity_update_duration_seconds", "Duration of updating an AzureAssignedIdentity, in seconds.", assignmentBuckets),
		AssignedIdentityUpdates:          counter("assigned_identity_update_count", "AzureAssignedIdentities updated."),
		CycleDuration:                    histogram("mic_cycle_duration_seconds", "Duration of bringing one VM or scale set in line, in seconds.", cycleBuckets),
		Cycles:                           counter("mic_cycle_count", "Times a VM or scale set was brought in line."),
		NewLeaderElections:               counter("mic_new_leader_election_count", "Times this replica became leader."),
		CloudDuration:                    histogramVec("cloud_provider_operations_duration_seconds", "Duration of ARM operations, in seconds.", cycleBuckets, LabelOperation),
		CloudErrors:                      counterVec("cloud_provider_operations_errors_count", "ARM operations that failed.", LabelOperation),
		KubernetesAPIErrors:              kubernetesAPIErrors(),
		CloudErrorsByCode:                counterVec("cloud_provider_operations_errors_by_code_count", "ARM operations that failed, by ARM's error code.", LabelOperation, LabelErrorCode),
		ARMRequests:                      counterVec("arm_requests_count", "HTTP requests to ARM, with polls and repetitions.", LabelCall, LabelStatusCode),
		ARMBudgetWait:                    histogramVec("arm_budget_wait_duration_seconds", "Time that requests to ARM waited for the subscription's budget, in seconds.", assignmentBuckets, LabelCall),
	}
	reg.MustRegister(
		m.CloudErrorsByCode, m.ARMRequests, m.ARMBudgetWait,
		m.AssignedIdentityAdditionDuration, m.AssignedIdentityAdditions,
		m.AssignedIdentityDeletionDuration, m.AssignedIdentityDeletions,
		m.AssignedIdentityUpdateDuration, m.AssignedIdentityUpdates,
		m.CycleDuration, m.Cycles, m.NewLeaderElections,
		m.CloudDuration, m.CloudErrors, m.KubernetesAPIErrors,
	)
	return m
}

// RegisterRefused registers how many identities ARM refuses at present.
func RegisterRefused(reg prometheus.Registerer, count func() int) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "mic_refused_identities", Help: "Identities that ARM refuses to assign at present.",
	}, func() float64 { return float64(count()) }))
}

// NMI is the metrics of NMI.
type NMI struct {
	// OperationDuration is of requests by pods. LabelOperation is one of a fixed
	// set of paths and LabelResource one of the well-known resources or "other":
	// both come from the pod's request.
	OperationDuration   *prometheus.HistogramVec // by LabelOperation, LabelStatusCode, LabelNamespace, LabelResource
	IMDSDuration        *prometheus.HistogramVec // by LabelOperation
	IMDSErrors          *prometheus.CounterVec   // by LabelOperation
	KubernetesAPIErrors *prometheus.CounterVec   // by LabelOperation

	// New. Reasons and results are a fixed set.
	Refusals           *prometheus.CounterVec // by LabelReason
	Waiters            prometheus.Gauge
	RedirectRepairs    prometheus.Counter
	TokenCacheRequests *prometheus.CounterVec // by LabelResult
	SourceChecks       *prometheus.CounterVec // by LabelResult
}

// NewNMI registers the metrics of NMI.
func NewNMI(reg prometheus.Registerer) *NMI {
	m := &NMI{
		OperationDuration:   histogramVec("nmi_operations_duration_seconds", "Duration of requests to NMI, in seconds.", requestBuckets, LabelOperation, LabelStatusCode, LabelNamespace, LabelResource),
		IMDSDuration:        histogramVec("imds_operations_duration_seconds", "Duration of token requests to IMDS and Azure AD, in seconds.", assignmentBuckets, LabelOperation),
		IMDSErrors:          counterVec("imds_operations_errors_count", "Token requests to IMDS and Azure AD that failed.", LabelOperation),
		KubernetesAPIErrors: kubernetesAPIErrors(),
		Refusals:            counterVec("nmi_refusals_count", "Requests and connections that NMI refused, by reason.", LabelReason),
		Waiters: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: Namespace, Name: "nmi_waiting_requests", Help: "Requests that wait for an identity to be assigned.",
		}),
		RedirectRepairs:    counter("nmi_redirect_repairs_count", "Times the redirect was not as it should be and was mended."),
		TokenCacheRequests: counterVec("nmi_token_cache_requests_count", "Requests to the token cache: hit, stale (a token that could not be renewed), miss, failure (an error that is kept for seconds).", LabelResult),
		SourceChecks:       counterVec("nmi_source_checks_count", "Connections of pods by whether they came in from where their source address is: verified, unverifiable, refused.", LabelResult),
	}
	reg.MustRegister(m.OperationDuration, m.IMDSDuration, m.IMDSErrors, m.KubernetesAPIErrors, m.Refusals, m.Waiters, m.RedirectRepairs, m.TokenCacheRequests, m.SourceChecks)
	return m
}

// RegisterConnections registers how many connections clients have to NMI.
func RegisterConnections(reg prometheus.Registerer, count func() int) {
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: Namespace, Name: "nmi_connections", Help: "Open connections of clients.",
	}, func() float64 { return float64(count()) }))
}

func kubernetesAPIErrors() *prometheus.CounterVec {
	return counterVec("kubernetes_api_operations_errors_count", "Kubernetes API operations that failed.", LabelOperation)
}

func histogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: Namespace, Name: name, Help: help, Buckets: buckets})
}

func histogramVec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: Namespace, Name: name, Help: help, Buckets: buckets}, labels)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help})
}

func counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: Namespace, Name: name, Help: help}, labels)
}
