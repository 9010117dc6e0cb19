package token

import (
	"strconv"
	"testing"
)

func TestStore(t *testing.T) {
	key := func(identity string, n int) Key { return Key{Identity: identity, Resource: strconv.Itoa(n)} }
	s := newStore[int](10, 4)
	for n := range 3 {
		s.put(key("a", n), n)
	}
	s.get(key("a", 0))
	for n := range 100 {
		s.put(key("greedy", n), n)
	}
	for n := range 3 {
		if got, ok := s.get(key("a", n)); !ok || got != n {
			t.Errorf("a's value %d was pushed out by another identity", n)
		}
	}
	if s.len() != 7 || s.number["greedy"] != 4 {
		t.Errorf("%d values, %v", s.len(), s.number)
	}
	if _, ok := s.get(key("greedy", 99)); !ok {
		t.Error("the newest was dropped")
	}
	for n := range 20 {
		s.put(key(strconv.Itoa(n), n), n)
	}
	if s.len() != 10 || len(s.items) != 10 || len(s.number) != 10 {
		t.Errorf("%d values, %d items, %v", s.len(), len(s.items), s.number)
	}
	s.put(key("19", 19), 1)
	if got, _ := s.get(key("19", 19)); got != 1 {
		t.Error("a value was not replaced")
	}
	s.remove(key("19", 19))
	s.remove(key("19", 19))
	if _, ok := s.get(key("19", 19)); ok || s.len() != 9 || s.number["19"] != 0 {
		t.Error("a value was not removed")
	}
}

func TestStoreKeepsOneVersion(t *testing.T) {
	s := newStore[int](10, 10)
	one := Key{Identity: "a", Version: "1", Resource: "r"}
	other := Key{Identity: "b", Version: "1", Resource: "r"}
	two := Key{Identity: "a", Version: "2", Resource: "s"}
	s.put(one, 1)
	s.put(other, 1)
	s.put(two, 2)
	if _, ok := s.get(one); ok {
		t.Error("the former version is kept")
	}
	for _, k := range []Key{other, two} {
		if _, ok := s.get(k); !ok {
			t.Errorf("%v was dropped", k)
		}
	}
}
