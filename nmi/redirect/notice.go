package redirect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/mdlayher/netlink"
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
			conn, err := openNetlink()
			if err != nil {
				return err
			}
			return watchNetlink(ctx, conn, family, func() { changed(true) })
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
func openNetlink() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, fmt.Errorf("watching nf_tables: %w", err)
	}
	return conn, nil
}

// watchNetlink follows what an open socket tells.
func watchNetlink(ctx context.Context, conn *netlink.Conn, family byte, changed func()) error {
	return readAll(ctx, conn, "nf_tables", func() error {
		messages, err := conn.Receive()
		if slices.ContainsFunc(messages, func(m netlink.Message) bool { return touchesRedirect(m, family) }) {
			changed()
		}
		return err
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
	f, events := os.NewFile(uintptr(fd), file), make([]byte, 4<<10)
	return readAll(ctx, f, file, func() error {
		_, err := f.Read(events)
		if err == nil {
			used()
		}
		return err
	}, used)
}

// readAll reads from what it closes in the end, until ctx ends. What was lost may have
// been of interest.
func readAll(ctx context.Context, from io.Closer, name string, read func() error, lost func()) error {
	defer func() { _ = from.Close() }()
	defer context.AfterFunc(ctx, func() { _ = from.Close() })()
	for {
		err := read()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case err != nil:
			return fmt.Errorf("watching %s: %w", name, err)
		}
	}
}

// familyHeader is the size of struct nfgenmsg, which begins with the family.
const familyHeader = 4

// touchesRedirect says whether a netlink message is of a change that can break the
// redirect of a family: of a rule of our chain or of PREROUTING, or of something that
// goes with one of these or with the whole table. It is pure.
func touchesRedirect(m netlink.Message, family byte) bool {
	subsystem, kind := uint16(m.Header.Type)>>8, uint16(m.Header.Type)&0xff
	if subsystem != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < familyHeader || m.Data[0] != family {
		return false
	}
	var ofTable, ofChain uint16 // the attributes that name them
	switch kind {
	case unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		ofTable, ofChain = unix.NFTA_RULE_TABLE, unix.NFTA_RULE_CHAIN
	case unix.NFT_MSG_DELCHAIN:
		ofTable, ofChain = unix.NFTA_CHAIN_TABLE, unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_DELTABLE:
		ofTable = unix.NFTA_TABLE_NAME
	default:
		return false
	}
	d, err := netlink.NewAttributeDecoder(m.Data[familyHeader:])
	if err != nil {
		return true // not understood
	}
	var inTable, name string
	for d.Next() {
		switch d.Type() {
		case ofTable:
			inTable = d.String()
		case ofChain:
			name = d.String()
		}
	}
	return d.Err() != nil || inTable == table && (ofChain == 0 || name == chain || name == hook)
}
