package cluster

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20 21"
	for name, tc := range map[string]struct {
		data      string
		want      procStat
		wantError bool
	}{
		"an ordinary process":                    {data: "42 (kubelet)" + tail, want: procStat{state: 'S', startTicks: 98765}},
		"a name with blanks and parentheses":     {data: "42 (a) b (c))" + tail, want: procStat{state: 'S', startTicks: 98765}},
		"no name at all":                         {data: "42", wantError: true},
		"a line that was cut off":                {data: "42 (kubelet) S 1 2 3", wantError: true},
		"a start time that is not a number":      {data: strings.Replace("42 (x)"+tail, "98765", "soon", 1), wantError: true},
		"a zombie, which keeps its start time":   {data: "42 (x)" + strings.Replace(tail, "S", "Z", 1), want: procStat{state: 'Z', startTicks: 98765}},
		"a start time larger than 32 bits holds": {data: strings.Replace("42 (x)"+tail, "98765", "9876543210123", 1), want: procStat{state: 'S', startTicks: 9876543210123}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.data))
			if (err != nil) != tc.wantError {
				t.Fatalf("error %v, want error: %t", err, tc.wantError)
			}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestARecordMatchesOnlyItsProcess(t *testing.T) {
	record := pidRecord{PID: 42, StartTicks: 100, BootID: "boot", Exe: "/bin/etcd"}
	process := processInfo{pid: 42, stat: procStat{state: 'S', startTicks: 100}, exe: "/bin/etcd"}
	for name, tc := range map[string]struct {
		change func(*processInfo)
		boot   string
		want   bool
	}{
		"the recorded process":                        {boot: "boot", want: true},
		"another process that got the same pid":       {change: func(p *processInfo) { p.stat.startTicks = 200 }, boot: "boot"},
		"a process with the same ticks after boot":    {boot: "next boot"},
		"another program with pid and start equal":    {change: func(p *processInfo) { p.exe = "/bin/sshd" }, boot: "boot"},
		"a process with another pid":                  {change: func(p *processInfo) { p.pid = 43 }, boot: "boot"},
		"a program whose file was replaced meanwhile": {change: func(p *processInfo) { p.args = []string{"etcd"} }, boot: "boot", want: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := process
			if tc.change != nil {
				tc.change(&p)
			}
			if got := record.matches(p, tc.boot); got != tc.want {
				t.Errorf("matches = %t, want %t", got, tc.want)
			}
		})
	}
}

func TestBelongsTo(t *testing.T) {
	const runDir, programs = "/var/lib/c", "/cache/images"
	for name, tc := range map[string]struct {
		process processInfo
		want    bool
	}{
		"a server of the cluster":               {processInfo{exe: "/cache/bin/kubelet", args: []string{"kubelet", "--root-dir=/var/lib/c/kubelet"}}, true},
		"a path as an argument of its own":      {processInfo{exe: "/usr/bin/containerd", args: []string{"containerd", "--config", "/var/lib/c/config/x"}}, true},
		"a shim of the cluster's containerd":    {processInfo{exe: "/usr/bin/containerd-shim-runc-v2", args: []string{"x", "-address", "/var/lib/c/containerd/c.sock"}}, true},
		"the machine's own containerd":          {processInfo{exe: "/usr/bin/containerd", args: []string{"/usr/bin/containerd"}}, false},
		"a cluster with a longer directory":     {processInfo{exe: "/usr/bin/containerd", args: []string{"containerd", "--config", "/var/lib/c2/config/x"}}, false},
		"an editor that has a file open":        {processInfo{exe: "/usr/bin/vim", args: []string{"vim", "/var/lib/c/config/x"}}, false},
		"kubectl with the cluster's kubeconfig": {processInfo{exe: "/cache/bin/kubectl", args: []string{"kubectl", "--kubeconfig=/var/lib/c/kubeconfig/admin"}}, false},
		"a program built for the cluster":       {processInfo{exe: "/cache/images/1/emulator", args: []string{"emulator", "--state-dir=/var/lib/c/azure"}}, true},
		"the same program run by hand":          {processInfo{exe: "/cache/images/1/emulator", args: []string{"emulator", "--state-dir=/tmp"}}, false},
		"a process in a container":              {processInfo{exe: "/app", cgroups: "4:memory:/aad-pod-identity-cluster/kubepods/pod1/abc\n"}, true},
		"a process in a container, cgroup v2":   {processInfo{exe: "/app", cgroups: "0::/aad-pod-identity-cluster/kubepods/pod1/abc\n"}, true},
		"a container of another cluster":        {processInfo{exe: "/app", cgroups: "0::/kubepods/pod1/abc\n"}, false},
		"a cgroup with a longer name":           {processInfo{exe: "/app", cgroups: "0::/aad-pod-identity-cluster2/x\n"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.process.belongsTo(runDir, programs); got != tc.want {
				t.Errorf("belongsTo = %t, want %t", got, tc.want)
			}
		})
	}
}

// stubborn is a child process that ignores SIGTERM, or not; it has printed a line when it is ready.
func startChild(t *testing.T, script string) processInfo {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no shell: %v", err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	info, ok := inspect(cmd.Process.Pid)
	if !ok {
		t.Skip("no /proc")
	}
	return info
}

func TestTerminate(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		grace  time.Duration
	}{
		"a process that obeys":                {"echo; while :; do read x < /dev/zero || :; done", time.Minute},
		"a process that ignores SIGTERM":      {"trap '' TERM; echo; while :; do :; done", time.Millisecond},
		"a process that is not asked at all":  {"trap '' TERM; echo; while :; do :; done", 0},
		"a process that has ended by itself ": {"echo", time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			info := startChild(t, tc.script)
			if err := terminate(t.Context(), info, tc.grace); err != nil {
				t.Fatal(err)
			}
			if now, ok := inspect(info.pid); ok && now.stat.startTicks == info.stat.startTicks {
				t.Errorf("process %d still runs", info.pid)
			}
		})
	}
}

func TestTerminateSparesAReusedPID(t *testing.T) {
	info := startChild(t, "echo; while :; do :; done")
	old := info
	old.stat.startTicks-- // what was inspected once had the same pid and started earlier
	if err := terminate(t.Context(), old, 0); err != nil {
		t.Fatal(err)
	}
	if _, ok := inspect(info.pid); !ok {
		t.Error("the process that has the pid now was killed")
	}
}

func TestEnsureStartsRepairsAndRestarts(t *testing.T) {
	shell, err := exec.LookPath("sleep")
	if err != nil {
		t.Skip("no sleep")
	}
	if _, err := bootID(); err != nil {
		t.Skip("no /proc")
	}
	c := testCluster(t)
	if err := c.paths.make(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	input := filepath.Join(c.paths.root, "input")
	if err := os.WriteFile(input, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := process{name: "sleeper", exe: shell, args: []string{"3600"}, inputs: []string{input}}
	t.Cleanup(func() { _ = c.stop(context.Background(), p.name, 0) })
	pid := func() int {
		t.Helper()
		info, _, ok := c.running(p.name)
		if !ok {
			t.Fatal("it does not run")
		}
		return info.pid
	}
	ensure := func(want bool) {
		t.Helper()
		if started, err := c.ensure(ctx, p); err != nil || started != want {
			t.Fatalf("started = %t, error %v, want started = %t", started, err, want)
		}
	}
	ensure(true)
	first := pid()
	ensure(false)
	if again := pid(); again != first {
		t.Errorf("a running process was replaced: %d, then %d", first, again)
	}
	if err := os.WriteFile(input, []byte("2"), 0o600); err != nil {
		t.Fatal(err)
	}
	ensure(true)
	second := pid()
	if second == first {
		t.Error("a changed input did not restart the process")
	}
	info, _, _ := c.running(p.name)
	if err := terminate(ctx, info, 0); err != nil {
		t.Fatal(err)
	}
	ensure(true)
	if err := c.stop(ctx, p.name, 0); err != nil {
		t.Fatal(err)
	}
	if err := c.stop(ctx, p.name, 0); err != nil {
		t.Errorf("stopping what does not run: %v", err)
	}
}

// testCluster is a cluster in a temporary directory that was never started.
func testCluster(t *testing.T) *Cluster {
	t.Helper()
	dir, err := os.MkdirTemp("", "c-") //nolint:usetesting // t.TempDir is too long for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c, err := New(Options{RunDir: filepath.Join(dir, "run"), CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
