package cluster

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// unmountBelow detaches every mount below dir. A mount that is still busy disappears with its last user.
func unmountBelow(dir string) error {
	mounts, err := listMounts()
	if err != nil {
		return err
	}
	for _, target := range mountsBelow(mounts, dir) {
		if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", target, err)
		}
	}
	return nil
}

// shareMounts makes dir a mount point of its own with shared propagation, which the kubelet
// needs for volumes with mountPropagation and which not every machine's root has.
func shareMounts(dir string) error {
	mounts, err := listMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.target == dir {
			return nil
		}
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", dir, err)
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("sharing the mounts of %s: %w", dir, err)
	}
	return nil
}
