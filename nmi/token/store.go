package token

import (
	"container/list"
	"sync"
)

// store keeps the most recently used values, at most size of them and at most each
// of one identity: pods choose the resource, and one that asks for ever new ones
// must not push out what belongs to others.
type store[V any] struct {
	size, each int

	mu     sync.Mutex
	order  *list.List // of *item[V], the most recently used first
	items  map[Key]*list.Element
	number map[string]int // by Key.Identity
}

type item[V any] struct {
	key   Key
	value V
}

func newStore[V any](size, each int) *store[V] {
	return &store[V]{size: size, each: each, order: list.New(), items: map[Key]*list.Element{}, number: map[string]int{}}
}

func (s *store[V]) get(key Key) (V, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.items[key]
	if !ok {
		var none V
		return none, false
	}
	s.order.MoveToFront(e)
	return s.at(e).value, true
}

// put adds or replaces a value, and drops those that were got for the same with
// another version of the credential.
func (s *store[V]) put(key Key, value V) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.items[key]; ok {
		s.at(e).value = value
		s.order.MoveToFront(e)
		return
	}
	if key.Version != "" {
		s.drop(func(k Key) bool { return k.Identity == key.Identity && k.Version != key.Version })
	}
	if s.number[key.Identity] >= s.each {
		s.dropOldest(func(k Key) bool { return k.Identity == key.Identity })
	}
	if s.order.Len() >= s.size {
		s.dropOldest(func(Key) bool { return true })
	}
	s.items[key] = s.order.PushFront(&item[V]{key, value})
	s.number[key.Identity]++
}

func (s *store[V]) remove(key Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.items[key]; ok {
		s.forget(e)
	}
}

func (s *store[V]) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.order.Len()
}

func (s *store[V]) at(e *list.Element) *item[V] {
	i, _ := e.Value.(*item[V])
	return i
}

func (s *store[V]) drop(which func(Key) bool) {
	for e := s.order.Front(); e != nil; {
		next := e.Next()
		if which(s.at(e).key) {
			s.forget(e)
		}
		e = next
	}
}

func (s *store[V]) dropOldest(which func(Key) bool) {
	for e := s.order.Back(); e != nil; e = e.Prev() {
		if which(s.at(e).key) {
			s.forget(e)
			return
		}
	}
}

func (s *store[V]) forget(e *list.Element) {
	key := s.at(e).key
	s.order.Remove(e)
	delete(s.items, key)
	if s.number[key.Identity]--; s.number[key.Identity] <= 0 {
		delete(s.number, key.Identity)
	}
}
