package redirect

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Noticing is an IPTables that tells when somebody may have changed the rules, so
// that a repair need not wait for the interval.
type Noticing interface {
	// Watch calls changed until ctx ends. Certain says that one of our chains or
	// PREROUTING was changed; otherwise somebody has only used iptables, which may
	// have been ourselves. Failed is told of what can be followed no longer.
	Watch(ctx context.Context, changed func(certain bool), failed func(error))
}

// lockFile is held by every run of iptables with the legacy backend. The nft
// backend has no lock but tells of changes over netlink.
const lockFile = "/run/xtables.lock"

// watchKernel follows both backends: another program of the node may use the other
// one.
func watchKernel(ctx context.Context, family byte, changed func(certain bool), failed func(error)) {
	watchAll(ctx, failed,
		func() error {
			socket, err := openNetlink()
			if err != nil {
				return err
			}
			return watchNetlink(ctx, socket, family, func() { changed(true) })
		},
		func() error { return watchLock(ctx, lockFile, func() { changed(false) }) })
}

// watchAll runs what watches until all have ended, and tells of one that fails then.
func watchAll(ctx context.Context, failed func(error), watches ...func() error) {
	var wg sync.WaitGroup
	for _, watch := range watches {
		wg.Go(func() {
			if err := watch(); err != nil && ctx.Err() == nil {
				failed(err)
			}
		})
	}
	wg.Wait()
}

// openNetlink is told of the changes of nf_tables from now on; it needs NET_ADMIN.
func openNetlink() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("watching nf_tables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return nil, errors.Join(fmt.Errorf("watching nf_tables: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "nf_tables"), nil
}

// watchNetlink follows what an open socket tells.
func watchNetlink(ctx context.Context, socket *os.File, family byte, changed func()) error {
	return readAll(ctx, socket, "nf_tables", func(data []byte) {
		if touchesRedirect(data, family) {
			changed()
		}
	}, changed)
}

// watchLock follows the use of a file.
func watchLock(ctx context.Context, file string, used func()) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching %s: %w", file, err)
	}
	if _, err := unix.InotifyAddWatch(fd, file, unix.IN_CLOSE); err != nil {
		err = errors.Join(fmt.Errorf("watching %s: %w", file, err), unix.Close(fd))
		if errors.Is(err, unix.ENOENT) {
			return nil // nobody has used the legacy backend since the node was started
		}
		return err
	}
	return readAll(ctx, os.NewFile(uintptr(fd), file), file, func([]byte) { used() }, used)
}

// readAll reads messages until ctx ends. What was lost may have been of interest.
func readAll(ctx context.Context, f *os.File, name string, message func([]byte), lost func()) error {
	defer func() { _ = f.Close() }()
	defer context.AfterFunc(ctx, func() { _ = f.Close() })()
	buffer := make([]byte, 64<<10)
	for {
		n, err := f.Read(buffer)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case err != nil:
			return fmt.Errorf("watching %s: %w", name, err)
		default:
			message(buffer[:n])
		}
	}
}

// Sizes of netlink's headers: struct nlmsghdr, nfgenmsg and nlattr.
const (
	messageHeader = 16
	familyHeader  = 4
	attributeHead = 4
	attributeType = 0x3fff // without the flags
)

// touchesRedirect says whether one of the netlink messages is of a change that can
// break the redirect of a family: of a rule of our chain or of PREROUTING, or of
// something that goes with one of these or with the whole table. It is pure.
func touchesRedirect(data []byte, family byte) bool {
	for len(data) >= messageHeader {
		size := int(binary.NativeEndian.Uint32(data))
		kind := binary.NativeEndian.Uint16(data[4:])
		if size < messageHeader || size > len(data) {
			return true // not understood
		}
		if kind>>8 == unix.NFNL_SUBSYS_NFTABLES && size >= messageHeader+familyHeader &&
			data[messageHeader] == family && touches(kind&0xff, attributes(data[messageHeader+familyHeader:size])) {
			return true
		}
		data = data[min(len(data), aligned(size)):]
	}
	return false
}

func touches(kind uint16, attribute map[uint16]string) bool {
	ours := func(table, name uint16) bool {
		return attribute[table] == "nat" && slices.Contains([]string{chain, hook}, attribute[name])
	}
	switch kind {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return ours(unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN)
	case unix.NFT_MSG_DELCHAIN:
		return ours(unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME)
	case unix.NFT_MSG_DELTABLE:
		return attribute[unix.NFTA_TABLE_NAME] == table
	}
	return false
}

// attributes reads the attributes of a message as strings; those that are not are
// of no interest.
func attributes(data []byte) map[uint16]string {
	found := map[uint16]string{}
	for len(data) >= attributeHead {
		size := int(binary.NativeEndian.Uint16(data))
		if size < attributeHead || size > len(data) {
			break
		}
		text, _, _ := bytes.Cut(data[attributeHead:size], []byte{0})
		found[binary.NativeEndian.Uint16(data[2:])&attributeType] = string(text)
		data = data[min(len(data), aligned(size)):]
	}
	return found
}

func aligned(size int) int { return (size + 3) &^ 3 }
