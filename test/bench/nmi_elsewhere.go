package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "github.com/aad-pod-identity/aad-pod-identity/api/v1"
	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

const (
	podsPerNode = 100
	// copiesAtOnce is how many objects are written in one transaction; etcd takes 128.
	copiesAtOnce = 100
	// Where the API server keeps objects in etcd.
	storedPods     = "/registry/pods/" + micNamespace + "/"
	storedAssigned = "/registry/aadpodidentity.k8s.io/azureassignedidentities/" + micNamespace + "/"
)

func elsewhereName(i int) string { return fmt.Sprintf("elsewhere%05d", i) }

// fillElsewhere makes pods with an identity each on other nodes. The first is made
// through the API server, the others are copies of it in etcd, of which the API server
// hears as of all changes: to make them one by one takes two processors ten minutes.
func (w *nmiWorld) fillElsewhere(ctx context.Context, n int, id azure.Identity) error {
	pod, err := w.clientset.CoreV1().Pods(micNamespace).Create(ctx, podOn(nodeName(1), elsewhereName(0)), metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("making a pod elsewhere: %w", err)
	}
	assigned := assignedIdentity(pod.Name, pod.Spec.NodeName, id, v1.AssignedIDAssigned)
	if err := w.client.Create(ctx, assigned); err != nil {
		return fmt.Errorf("assigning an identity elsewhere: %w", err)
	}
	first := []stored{{key: storedPods + pod.Name, uid: string(pod.UID)}, {key: storedAssigned + assigned.Name, uid: string(assigned.UID)}}
	for i := range first {
		if first[i].value, err = w.read(ctx, first[i].key); err != nil {
			return err
		}
	}
	const transactions = copiesAtOnce / 2
	return inParallel(ctx, (n-1+transactions-1)/transactions, func(ctx context.Context, t int) error {
		var copies []stored
		for i := 1 + t*transactions; i < min(n, 1+(t+1)*transactions); i++ {
			for _, s := range first {
				copies = append(copies, s.as(i))
			}
		}
		return w.write(ctx, copies)
	})
}

// stored is an object as the API server keeps it.
type stored struct {
	key, uid string
	value    []byte
}

// as is the copy of the first object for another number. All that differs is as long
// as before, or the encoding would not hold.
func (s stored) as(i int) stored {
	replace := func(in []byte) []byte {
		in = bytes.ReplaceAll(in, []byte(elsewhereName(0)), []byte(elsewhereName(i)))
		return bytes.ReplaceAll(in, []byte(nodeName(1)), []byte(nodeName(1+i/podsPerNode)))
	}
	uid := uuid.NewString()
	return stored{key: string(replace([]byte(s.key))), uid: uid, value: bytes.ReplaceAll(replace(s.value), []byte(s.uid), []byte(uid))}
}

// keyValue is what etcd's gateway for JSON takes and gives.
type keyValue struct {
	Key   []byte `json:"key"`
	Value []byte `json:"value,omitempty"`
}

func (w *nmiWorld) read(ctx context.Context, key string) ([]byte, error) {
	var found struct{ Kvs []keyValue }
	if err := w.etcd(ctx, "range", keyValue{Key: []byte(key)}, &found); err != nil {
		return nil, err
	}
	if len(found.Kvs) != 1 {
		return nil, fmt.Errorf("etcd has %d of %s", len(found.Kvs), key)
	}
	return found.Kvs[0].Value, nil
}

func (w *nmiWorld) write(ctx context.Context, objects []stored) error {
	type put struct {
		RequestPut keyValue `json:"requestPut"`
	}
	var all struct {
		Success []put `json:"success"`
	}
	for _, o := range objects {
		all.Success = append(all.Success, put{keyValue{Key: []byte(o.key), Value: o.value}})
	}
	var done struct{ Succeeded bool }
	if err := w.etcd(ctx, "txn", all, &done); err != nil {
		return err
	}
	if !done.Succeeded {
		return fmt.Errorf("etcd refused %d objects", len(objects))
	}
	return nil
}

// etcd calls etcd's gateway for JSON.
func (w *nmiWorld) etcd(ctx context.Context, method string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("encoding a request to etcd: %w", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.env.ControlPlane.Etcd.URL.String()+"/v3/kv/"+method, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("making a request to etcd: %w", err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("asking etcd: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("asking etcd: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("asking etcd: %s: %s", response.Status, raw)
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("reading etcd's answer: %w", err)
	}
	return nil
}

// known says whether the API server has heard of all pods elsewhere.
func (w *nmiWorld) known(ctx context.Context, n int) error {
	last := elsewhereName(n - 1)
	// Resource version 0 is answered from what the API server has heard.
	_, err := w.clientset.CoreV1().Pods(micNamespace).Get(ctx, last, metav1.GetOptions{ResourceVersion: "0"})
	return err
}
