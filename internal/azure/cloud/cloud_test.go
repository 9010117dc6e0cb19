package cloud

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	azcloud "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
)

func write(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const principal = `"tenantId":"t","aadClientId":"c","aadClientSecret":"s"`

func TestFromFile(t *testing.T) {
	for name, test := range map[string]struct {
		content string
		want    Config
		err     string
	}{
		"JSON": {
			content: `{"cloud":"AzurePublicCloud",` + principal + `,"subscriptionId":"sub","resourceGroup":"rg","vmType":"vmss","useManagedIdentityExtension":false,"userAssignedIdentityID":"u","unknown":{"a":[1]}}`,
			want:    Config{Cloud: "AzurePublicCloud", TenantID: "t", ClientID: "c", ClientSecret: "s", SubscriptionID: "sub", ResourceGroup: "rg", VMType: "vmss", UserAssignedIdentityID: "u"},
		},
		"YAML": {
			content: "tenantId: t\naadClientId: c\naadClientSecret: s\n",
			want:    Config{TenantID: "t", ClientID: "c", ClientSecret: "s"},
		},
		"a managed identity needs nothing else": {
			content: `{"useManagedIdentityExtension":true}`,
			want:    Config{UseManagedIdentity: true},
		},
		"a missing tenant":        {content: `{"aadClientId":"c","aadClientSecret":"s"}`, err: "azure.json) lacks tenantId:"},
		"all missing at once":     {content: `{}`, err: "azure.json) lacks tenantId, aadClientId, aadClientSecret:"},
		"neither JSON nor YAML":   {content: `{"tenantId`, err: "azure.json is neither JSON nor YAML"},
		"a value of another type": {content: `{"useManagedIdentityExtension":"yes"}`, err: `field "useManagedIdentityExtension" must be a bool, not a string`},
		"empty":                   {content: " \n", err: "azure.json is empty"},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, "azure.json", test.content)
			got, err := FromFile(path)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), path) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			test.want.source = path
			if *got != test.want {
				t.Errorf("got %+v, want %+v", *got, test.want)
			}
		})
	}
	if _, err := FromFile("/does/not/exist"); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("missing file: %v", err)
	}
}

func TestFromEnvironment(t *testing.T) {
	env := map[string]string{
		"CLOUD": "AzureChinaCloud", "TENANT_ID": "t", "CLIENT_ID": "c", "CLIENT_SECRET": "s", "SUBSCRIPTION_ID": "sub",
		"RESOURCE_GROUP": "rg", "VM_TYPE": "vmss", "USE_MSI": "True", "USER_ASSIGNED_MSI_CLIENT_ID": "u",
	}
	got, err := FromEnvironment(func(k string) string { return env[k] })
	want := Config{
		Cloud: "AzureChinaCloud", TenantID: "t", ClientID: "c", ClientSecret: "s", SubscriptionID: "sub", ResourceGroup: "rg", VMType: "vmss",
		UseManagedIdentity: true, UserAssignedIdentityID: "u", source: "environment variables",
	}
	if err != nil || *got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := FromEnvironment(func(string) string { return "" }); err == nil || !strings.Contains(err.Error(), "lacks TENANT_ID, CLIENT_ID, CLIENT_SECRET") {
		t.Errorf("empty environment: %v", err)
	}
}

func TestResolveEnvironment(t *testing.T) {
	custom := write(t, "environment.json", `{"name":"x","resourceManagerEndpoint":"https://arm.local/","activeDirectoryEndpoint":"https://aad.local/","tokenAudience":"https://audience.local/"}`)
	classic := write(t, "environment.json", `{"resourceManagerEndpoint":"https://arm.local","activeDirectoryEndpoint":"https://aad.local/","serviceManagementEndpoint":"https://management.local/"}`)
	for name, test := range map[string]struct {
		cloud, file         string
		authority, endpoint string
		audience, err       string
		private             bool
	}{
		"the default is the public cloud": {authority: "https://login.microsoftonline.com/", endpoint: "https://management.azure.com", audience: "https://management.core.windows.net/"},
		"names ignore case":               {cloud: "azurePUBLICcloud", authority: "https://login.microsoftonline.com/", endpoint: "https://management.azure.com", audience: "https://management.core.windows.net/"},
		"US government":                   {cloud: "AzureUSGovernmentCloud", authority: "https://login.microsoftonline.us/", endpoint: "https://management.usgovcloudapi.net", audience: "https://management.core.usgovcloudapi.net/"},
		"US government's short name":      {cloud: "AzureUSGovernment", authority: "https://login.microsoftonline.us/", endpoint: "https://management.usgovcloudapi.net", audience: "https://management.core.usgovcloudapi.net/"},
		"China":                           {cloud: "AzureChinaCloud", authority: "https://login.chinacloudapi.cn/", endpoint: "https://management.chinacloudapi.cn", audience: "https://management.core.chinacloudapi.cn/"},
		"a custom cloud":                  {cloud: "AzureStackCloud", file: custom, authority: "https://aad.local/", endpoint: "https://arm.local", audience: "https://audience.local/", private: true},
		"a custom cloud without audience": {cloud: "azurestackcloud", file: classic, authority: "https://aad.local/", endpoint: "https://arm.local", audience: "https://management.local/", private: true},
		"an unknown cloud":                {cloud: "AzureMoonCloud", err: `unknown cloud "AzureMoonCloud", must be AzurePublicCloud`},
		"a custom cloud without a file":   {cloud: "AzureStackCloud", err: "AZURE_ENVIRONMENT_FILEPATH must name the file"},
		"a missing file":                  {cloud: "AzureStackCloud", file: "/does/not/exist", err: "/does/not/exist"},
		"a file that is no JSON":          {cloud: "AzureStackCloud", file: write(t, "e.json", "nope"), err: "e.json is not valid JSON"},
		"a file without the endpoint":     {cloud: "AzureStackCloud", file: write(t, "e.json", `{"activeDirectoryEndpoint":"https://a/"}`), err: "e.json lacks resourceManagerEndpoint"},
		"an endpoint over plain HTTP":     {cloud: "AzureStackCloud", file: write(t, "e.json", `{"activeDirectoryEndpoint":"https://a/","resourceManagerEndpoint":"http://b/"}`), err: `resourceManagerEndpoint "http://b/" is not an https URL`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ResolveEnvironment(test.cloud, test.file)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			rm := got.Configuration.Services[azcloud.ResourceManager]
			if got.Configuration.ActiveDirectoryAuthorityHost != test.authority || rm.Endpoint != test.endpoint || rm.Audience != test.audience || got.Private != test.private {
				t.Errorf("got %+v", got)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	none := func(string) string { return "" }
	for name, test := range map[string]struct {
		options Options
		err     string
	}{
		"a service principal":           {options: Options{ConfigFile: write(t, "azure.json", `{`+principal+`}`)}},
		"a managed identity":            {options: Options{ConfigFile: write(t, "azure.json", `{"useManagedIdentityExtension":true}`)}},
		"one by client ID":              {options: Options{ConfigFile: write(t, "azure.json", `{"useManagedIdentityExtension":true,"userAssignedIdentityID":"u"}`)}},
		"one by resource ID":            {options: Options{ConfigFile: write(t, "azure.json", `{"useManagedIdentityExtension":true,"userAssignedIdentityID":"/subscriptions/x"}`)}},
		"an unknown cloud names source": {options: Options{ConfigFile: write(t, "azure.json", `{"cloud":"x",`+principal+`}`)}, err: "azure.json): unknown cloud"},
		"a missing CA file":             {options: Options{ConfigFile: write(t, "azure.json", `{`+principal+`}`), CAFile: "/does/not/exist"}, err: "reading the CA file of the cloud: open /does/not/exist"},
		"a CA file without PEM":         {options: Options{ConfigFile: write(t, "azure.json", `{`+principal+`}`), CAFile: write(t, "ca.pem", "x")}, err: "ca.pem holds no PEM certificate"},
		"an empty environment":          {options: Options{Getenv: none}, err: "lacks TENANT_ID"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(test.options)
			switch {
			case test.err == "" && (err != nil || c.Credential == nil || c.HTTP == nil):
				t.Errorf("%+v, %v", c, err)
			case test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)):
				t.Errorf("error %v, want one with %q", err, test.err)
			}
		})
	}
}

func TestWatchSeesEveryKindOfReplacement(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "azure.json")
	put := func(name, content string) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	put("azure.json", "one")
	if !ReadFiles(path).changed(ReadFiles()) || ReadFiles(path, "", filepath.Join(dir, "absent")).changed(ReadFiles(path)) {
		t.Error("what was read is not told from what was not")
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var changes atomic.Int64
		var unusable atomic.Bool
		go Watch(ctx, []string{path, filepath.Join(dir, "ca.pem")}, ReadFiles(path), time.Second, func() bool { changes.Add(1); return !unusable.Load() })
		synctest.Wait()
		for _, step := range []struct {
			what string
			do   func()
			want int64
		}{
			{"nothing", func() {}, 0},
			{"written in place", func() { put("azure.json", "two") }, 1},
			{"replaced by rename", func() { try(os.Rename(put("next", "three"), path)) }, 2},
			{"the same content again", func() { try(os.Rename(put("next", "three"), path)) }, 2},
			{"missing for a while", func() { try(os.Remove(path)) }, 2},
			{"back as it was", func() { put("azure.json", "three") }, 2},
			{"a symbolic link to another", func() { put("other", "four"); try(os.Remove(path)); try(os.Symlink("other", path)) }, 3},
			{"empty for a while", func() { put("other", "") }, 3},
			{"another file that it is read with", func() { put("ca.pem", "one") }, 4},
			{"half written", func() { unusable.Store(true); put("other", "fi") }, 5},
			{"still half written", func() {}, 6},
			{"written", func() { unusable.Store(false); put("other", "five") }, 7},
			{"nothing again", func() {}, 7},
		} {
			step.do()
			<-time.After(1000 * time.Millisecond)
			synctest.Wait()
			if got := changes.Load(); got != step.want {
				t.Errorf("%s: %d changes seen, want %d", step.what, got, step.want)
			}
		}
		cancel()
		synctest.Wait()
	})
}

func TestIMDSIsNeverAskedThroughAProxy(t *testing.T) {
	if got, err := proxy(mustRequest(t, "http://169.254.169.254/metadata")); got != nil || err != nil {
		t.Errorf("proxy %v, %v", got, err)
	}
}

func mustRequest(t *testing.T, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestADeadHTTP2ConnectionIsNoticed(t *testing.T) {
	client, err := NewHTTPClient("")
	if err != nil {
		t.Fatal(err)
	}
	transport, ok := client.Transport.(*http.Transport)
	if !ok || transport.HTTP2 == nil || transport.HTTP2.SendPingTimeout <= 0 || transport.HTTP2.PingTimeout <= 0 {
		t.Errorf("transport %+v sends no pings", client.Transport)
	}
}
