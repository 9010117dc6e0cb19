package v1

// Labels, annotations and the finalizer that users, tools and the components
// share. The names without a comment on their origin are those of the 1.8
// releases.
const (
	// BindingLabelKey is the pod label whose value selects bindings: it must
	// equal AzureIdentityBinding.spec.selector exactly.
	BindingLabelKey = "aadpodidbinding"

	// NodeNameLabelKey labels an AzureAssignedIdentity with the node of its pod,
	// so that each NMI watches only the objects of its own node.
	NodeNameLabelKey = "nodename"

	// BehaviorAnnotationKey on an AzureIdentity with the value
	// BehaviorNamespaced confines it to pods of its own namespace.
	BehaviorAnnotationKey = "aadpodidentity.k8s.io/Behavior"
	// BehaviorNamespaced is the only meaningful value of BehaviorAnnotationKey.
	BehaviorNamespaced = "namespaced"

	// AssignedIdentityFinalizer holds an AzureAssignedIdentity until its
	// identity is removed from the node's VM or scale set. Without it a delete
	// would leak the identity on the VM.
	AssignedIdentityFinalizer = "azureassignedidentity.finalizers.aadpodidentity.k8s.io"

	// PodUIDAnnotationKey on an AzureAssignedIdentity holds the UID of its pod.
	// NMI refuses a pod of the same name with another UID.
	PodUIDAnnotationKey = "aadpodidentity.k8s.io/pod-uid"

	// LedgerLabelKey with the value "true" marks the ConfigMaps in MIC's
	// namespace that are its ownership ledgers, one for each VM or scale set.
	LedgerLabelKey = "aadpodidentity.k8s.io/ledger"

	// PodBindingLabelKey on a pod names its first matching binding. It is for
	// people and selectors; no component decides by it.
	PodBindingLabelKey = "aadpodidentity.k8s.io/binding"
	// PodIdentityLabelKey on a pod names the identity of its first matching
	// binding. It is for people and selectors; no component decides by it.
	PodIdentityLabelKey = "aadpodidentity.k8s.io/identity"
	// PodBindingsAnnotationKey on a pod lists all matching bindings as
	// namespace/name, comma-separated, in binding order.
	PodBindingsAnnotationKey = "aadpodidentity.k8s.io/bindings"

	// SelectorAnnotationKey on a ServiceAccount, or on its namespace, holds the
	// value of BindingLabelKey for the pods that carry no such label.
	SelectorAnnotationKey = "aadpodidentity.k8s.io/selector"
	// InjectSelectorLabelKey on a namespace with the value LabelEnabled opts its
	// pods in to SelectorAnnotationKey.
	InjectSelectorLabelKey = "aadpodidentity.k8s.io/inject-selector"

	// ReadinessGateKey asks for the readiness gate PodConditionIdentityAssigned:
	// an annotation with the value "true" on a pod, where "false" declines it, or
	// a label with the value LabelEnabled on a namespace.
	ReadinessGateKey = "aadpodidentity.k8s.io/readiness-gate"

	// ResourcesAnnotationKey on a pod lists the resources, comma-separated, that it
	// will want tokens for. NMI gets these ahead, as soon as the pod has its
	// identities.
	ResourcesAnnotationKey = "aadpodidentity.k8s.io/resources"

	// LabelEnabled is the value of the labels by which a namespace opts in.
	LabelEnabled = "enabled"
)
