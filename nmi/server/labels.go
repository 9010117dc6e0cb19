package server

import "strings"

// knownResources are the audiences that appear under their own name in metrics.
// The resource comes from the pod's request, so any other would let a pod make up
// as many time series as it likes.
var knownResources = func() map[string]bool {
	m := map[string]bool{}
	for _, r := range []string{
		"https://management.azure.com", "https://management.core.windows.net",
		"https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net",
		"https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn",
		"https://vault.azure.net", "https://vault.usgovcloudapi.net", "https://vault.azure.cn", "https://managedhsm.azure.net",
		"https://graph.microsoft.com", "https://graph.microsoft.us", "https://microsoftgraph.chinacloudapi.cn", "https://graph.windows.net",
		"https://storage.azure.com",
		"https://database.windows.net", "https://database.usgovcloudapi.net", "https://database.chinacloudapi.cn",
		"https://ossrdbms-aad.database.windows.net", "https://cosmos.azure.com", "https://redis.azure.com",
		"https://servicebus.azure.net", "https://eventhubs.azure.net", "https://eventgrid.azure.net",
		"https://batch.core.windows.net", "https://datalake.azure.net", "https://dev.azuresynapse.net", "https://search.azure.com",
		"https://cognitiveservices.azure.com", "https://ml.azure.com", "https://ai.azure.com", "https://openai.azure.com",
		"https://monitor.azure.com", "https://api.loganalytics.io", "https://api.applicationinsights.io", "https://monitoring.azure.com",
		"https://azconfig.io", "https://containerregistry.azure.net", "https://digitaltwins.azure.net", "https://dns.azure.com",
	} {
		m[r] = true
	}
	return m
}()

// otherResource stands for all resources that are not well known.
const otherResource = "other"

// resourceLabel is the label value for a requested resource. A trailing slash is
// kept, since dashboards of the 1.8 releases select by the text pods send.
func resourceLabel(resource string) string {
	if resource == "" {
		return ""
	}
	base, slash := strings.CutSuffix(strings.ToLower(resource), "/")
	switch {
	case !knownResources[base]:
		return otherResource
	case slash:
		return base + "/"
	default:
		return base
	}
}
