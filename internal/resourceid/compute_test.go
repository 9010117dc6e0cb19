package resourceid

import (
	"strings"
	"testing"
)

func TestParseProviderID(t *testing.T) {
	const (
		vm   = "azure:///subscriptions/" + sub + "/resourceGroups/MC_rg/providers/Microsoft.Compute/virtualMachines/node-0"
		vmss = "azure:///subscriptions/" + sub + "/resourceGroups/MC_rg/providers/Microsoft.Compute/virtualMachineScaleSets/pool/virtualMachines/12"
	)
	tests := map[string]struct {
		id      string
		want    Compute
		wantErr string
	}{
		"a virtual machine":            {id: vm, want: Compute{sub, "MC_rg", VM, "node-0", ""}},
		"an instance of a scale set":   {id: vmss, want: Compute{sub, "MC_rg", VMSS, "pool", "12"}},
		"lower case":                   {id: strings.ToLower(vmss), want: Compute{sub, "mc_rg", VMSS, "pool", "12"}},
		"upper case":                   {id: strings.ToUpper(vm), want: Compute{strings.ToUpper(sub), "MC_RG", VM, "NODE-0", ""}},
		"not set yet":                  {id: "", wantErr: "it is empty"},
		"another cloud":                {id: "aws:///us-east-1a/i-0abc", wantErr: "does not begin with azure://"},
		"a bare resource ID":           {id: strings.TrimPrefix(vm, "azure://"), wantErr: "does not begin with azure://"},
		"a host name":                  {id: "azure://host/subscriptions", wantErr: "no slash after azure://"},
		"another provider":             {id: strings.Replace(vm, "Microsoft.Compute", "Microsoft.Web", 1), wantErr: `segment "Microsoft.Web" must be "Microsoft.Compute"`},
		"another type":                 {id: strings.Replace(vm, "virtualMachines", "disks", 1), wantErr: "neither a virtual machine"},
		"a scale set without instance": {id: strings.TrimSuffix(vmss, "/virtualMachines/12"), wantErr: "neither a virtual machine"},
		"an empty name":                {id: strings.TrimSuffix(vm, "node-0"), wantErr: "a segment is empty"},
		"white space":                  {id: vm + " ", wantErr: "contains white space"},
		"a segment too many":           {id: vm + "/x", wantErr: "it has 9 segments"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := ParseProviderID(tt.id)
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Fatalf("error %v, want one with %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Fatalf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}

func TestComputeKeyNamesTheScaleSet(t *testing.T) {
	a := Compute{sub, "rg", VMSS, "Pool", "0"}
	if b := (Compute{strings.ToUpper(sub), "RG", VMSS, "pool", "1"}); a.Key() != b.Key() {
		t.Errorf("instances of one scale set differ: %q, %q", a.Key(), b.Key())
	}
	for _, b := range []Compute{
		{sub, "rg2", VMSS, "Pool", "0"},
		{"1f3c5e2a-91b7-4d1e-8c57-2b1f6a9d4e30", "rg", VMSS, "Pool", "0"},
		{sub, "rg", VM, "Pool", ""},
	} {
		if a.Key() == b.Key() {
			t.Errorf("%+v and %+v have one key", a, b)
		}
	}
	if got, want := a.String(), "/subscriptions/"+sub+"/resourceGroups/rg/providers/Microsoft.Compute/virtualMachineScaleSets/Pool"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}
