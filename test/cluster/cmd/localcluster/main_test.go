package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

func TestRunRefusesBadCommands(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"no command":                   {nil, "help requested"},
		"an unknown command":           {[]string{"start"}, `unknown command "start"`},
		"an argument too many":         {[]string{"up", "now"}, "up takes no arguments"},
		"an unknown flag":              {[]string{"-nodes=2", "up"}, "flag provided but not defined"},
		"a run directory that is long": {[]string{"-run-dir=/" + strings.Repeat("d/", 40), "kubeconfig"}, "unix sockets"},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			err := run(t.Context(), tc.args, &out, &errs)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if out.Len() > 0 {
				t.Errorf("printed %q", out.String())
			}
		})
	}
}

func TestKubeconfigPrintsOnlyThePath(t *testing.T) {
	dir := filepath.Join("/tmp", "localcluster-that-is-not-there")
	t.Setenv(cluster.RunDirEnv, dir)
	var out, errs bytes.Buffer
	if err := run(t.Context(), []string{"kubeconfig"}, &out, &errs); err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "kubeconfig", "admin") + "\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestSelectImages(t *testing.T) {
	specs := image.Product("example.com/p", "v1", "")
	all, err := selectImages(specs, nil)
	if err != nil || len(all) != 3 {
		t.Errorf("all: %d images, %v", len(all), err)
	}
	one, err := selectImages(specs, []string{"nmi"})
	if err != nil || len(one) != 1 || one[0].Name != "example.com/p/nmi:v1" {
		t.Errorf("nmi: %v, %v", one, err)
	}
	if _, err := selectImages(specs, []string{"nmo"}); err == nil || !strings.Contains(err.Error(), "webhook, mic, nmi") {
		t.Errorf("an unknown image: %v", err)
	}
}
