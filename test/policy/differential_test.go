package policy_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/json"

	"github.com/aad-pod-identity/aad-pod-identity/internal/validation"
)

// testDifferential feeds the corpus to the webhook's rules and to the API server,
// which must agree but for the known differences.
func (s *server) testDifferential(t *testing.T) {
	rules, err := validation.New()
	if err != nil {
		t.Fatal(err)
	}
	samples := corpus(t)
	answers := s.ask(t, samples)
	seen := map[string]int{}
	refused, disagreements := 0, 0
	for i, sample := range samples {
		findings, err := rules.Raw(sample.kind, sample.raw)
		byWebhook := err != nil || len(findings) > 0
		byServer := answers[i].refused
		if byServer {
			refused++
		}
		if byWebhook == byServer {
			continue
		}
		var o map[string]any
		if err := json.UnmarshalCaseSensitivePreserveInts(sample.raw, &o); err != nil {
			t.Fatalf("%s: %v", sample.name, err)
		}
		known := slices.IndexFunc(differences, func(d difference) bool {
			return d.serverRefuses == byServer && d.explains(sample.kind, o, findings)
		})
		if known >= 0 {
			seen[differences[known].id]++
			continue
		}
		if disagreements++; disagreements <= 20 {
			t.Errorf("%s\n%s\nthe webhook says: %v %v\nthe API server says: %s", sample.name, sample.raw, err, findings.ToAggregate(), answers[i].text)
		}
	}
	t.Logf("%d objects, %d refused by the API server, differences: %v", len(samples), refused, seen)
	if disagreements > 0 {
		t.Errorf("%d disagreements", disagreements)
	}
	for _, d := range differences {
		if seen[d.id] == 0 {
			t.Errorf("the difference %q was not met: is it still one?", d.id)
		}
	}
	// A corpus that is refused, or accepted, as a whole would prove nothing.
	if accepted := len(samples) - refused; accepted < len(samples)/20 || refused < len(samples)/2 {
		t.Errorf("%d of %d objects are refused", refused, len(samples))
	}
}

// answer is what the API server says about an object.
type answer struct {
	refused bool
	text    string
}

// ask creates each object as a dry run, checked strictly, as kubectl does.
func (s *server) ask(t *testing.T, samples []sample) []answer {
	t.Helper()
	config := rest.CopyConfig(s.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: "admin", Groups: []string{"system:masters"}}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	answers := make([]answer, len(samples))
	next := make(chan int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range next {
				var err error
				if answers[i], err = create(t.Context(), httpClient, strings.TrimSuffix(config.Host, "/"), samples[i]); err != nil {
					t.Errorf("%s: %v", samples[i].name, err)
				}
			}
		})
	}
	for i := range samples {
		next <- i
	}
	close(next)
	wg.Wait()
	return answers
}

// create sends the very bytes: a client would decode and encode them first.
func create(ctx context.Context, c *http.Client, host string, sample sample) (answer, error) {
	url := fmt.Sprintf("%s/apis/aadpodidentity.k8s.io/v1/namespaces/default/%s?dryRun=All&fieldValidation=Strict", host, plurals[sample.kind])
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(string(sample.raw)))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		return answer{}, nil
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		var status struct {
			Message string `json:"message"`
		}
		if err := json.UnmarshalCaseSensitivePreserveInts(body, &status); err != nil {
			return answer{}, fmt.Errorf("reading the answer %q: %w", body, err)
		}
		return answer{refused: true, text: status.Message}, nil
	default:
		return answer{}, fmt.Errorf("status %s: %s", resp.Status, body)
	}
}

// difference is one way in which the API server by itself and the webhook judge
// differently.
type difference struct {
	id string
	// serverRefuses says who refuses: the API server, or else the webhook.
	serverRefuses bool
	// text is what docs/policies.md says.
	text string
	// explains says whether an object shows the difference.
	explains func(kind string, o map[string]any, findings field.ErrorList) bool
}

func TestDifferencesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/policies.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented, known []string
	_, table, _ := strings.Cut(string(text), "<!-- differences -->\n")
	table, _, _ = strings.Cut(table, "<!-- end of differences -->")
	for line := range strings.Lines(table) {
		if cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|"); strings.HasPrefix(line, "| `") && len(cells) == 3 {
			documented = append(documented, strings.TrimSpace(line))
		}
	}
	for _, d := range differences {
		who := "the webhook"
		if d.serverRefuses {
			who = "the API server"
		}
		known = append(known, fmt.Sprintf("| `%s` | %s | %s |", d.id, who, d.text))
	}
	slices.Sort(documented)
	slices.Sort(known)
	if !slices.Equal(documented, known) {
		t.Errorf("docs/policies.md lists\n%s\nbut the test knows\n%s", strings.Join(documented, "\n"), strings.Join(known, "\n"))
	}
}
