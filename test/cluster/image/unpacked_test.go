package image

import (
	"archive/tar"
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFilesOfAPackage(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "./usr/bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/bin/az", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2},
		{Name: "./usr/bin/link", Typeflag: tar.TypeSymlink, Linkname: "az", Mode: 0o777},
		{Name: "./usr/bin/same", Typeflag: tar.TypeLink, Linkname: "./usr/bin/az", Mode: 0o755},
		{Name: "./usr/share/doc/az/copyright", Typeflag: tar.TypeReg, Mode: 0o644, Size: 2},
		{Name: "./usr/lib/unwanted", Typeflag: tar.TypeReg, Mode: 0o644, Size: 2},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("az")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cut := bytes.NewReader(archive.Bytes()[:700])
	files, err := filesOf(&archive, func(file string) bool { return file != "/usr/lib/unwanted" })
	if err != nil {
		t.Fatal(err)
	}
	type entry struct{ Path, Content, Link string }
	var got []entry
	for _, f := range files {
		got = append(got, entry{f.Path, string(f.Content), f.Link})
	}
	want := []entry{{"/usr/bin/az", "az", ""}, {"/usr/bin/link", "", "az"}, {"/usr/bin/same", "", "/usr/bin/az"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if files[0].Mode.Perm() != 0o755 {
		t.Errorf("mode %v", files[0].Mode)
	}
	if _, err := filesOf(cut, func(string) bool { return true }); err == nil {
		t.Error("an archive that is cut off is read without an error")
	}
}
