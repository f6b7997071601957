// Writes tests/golden/yaml.json: what Kubernetes and the providers for Vault and OpenBao read from the inputs of inputs.go.
//
// A manifest is read as kubectl reads it (k8s.io/apimachinery, over sigs.k8s.io/yaml). The text under `objects` is read as both
// providers read it (gopkg.in/yaml.v3, into their struct), and `secretArgs` become JSON as their client writes it.
// `make golden-yaml` runs this; src/dialect/golden.rs replays the answers without Go.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"gopkg.in/yaml.v3"
	kubernetes "k8s.io/apimachinery/pkg/util/yaml"
)

// What a reader made of an input: its JSON, or why there is none.
type answer struct {
	JSON  string `json:"json,omitempty"`
	Error string `json:"error,omitempty"`
}

// A mapping, read as a manifest and as `secretArgs`.
type document struct {
	Text      string `json:"text"`
	Manifest  answer `json:"manifest"`
	Arguments answer `json:"arguments"`
}

// A text under `objects`.
type objects struct {
	Text    string `json:"text"`
	Objects answer `json:"objects"`
}

// The providers' own struct (internal/config): os.FileMode is a uint32.
type secret struct {
	ObjectName     string         `yaml:"objectName,omitempty" json:"objectName"`
	SecretPath     string         `yaml:"secretPath,omitempty" json:"secretPath"`
	SecretKey      string         `yaml:"secretKey,omitempty" json:"secretKey"`
	Method         string         `yaml:"method,omitempty" json:"method"`
	SecretArgs     map[string]any `yaml:"secretArgs,omitempty" json:"secretArgs"`
	FilePermission uint32         `yaml:"filePermission,omitempty" json:"filePermission"`
	Encoding       string         `yaml:"encoding,omitempty" json:"encoding"`
}

func main() {
	for _, value := range values {
		documentInputs = append(documentInputs, "v: "+value+"\n")
	}
	documents, lists := []any{}, []any{}
	for _, text := range documentInputs {
		documents = append(documents, document{text, manifest(text), arguments(text)})
	}
	for _, text := range objectInputs {
		lists = append(lists, objects{text, readObjects(text)})
	}
	fmt.Printf("{\n\"documents\": [\n%s\n],\n\"objects\": [\n%s\n]\n}\n", lines(documents), lines(lists))
}

// One entry per line, so that a change of one is a change of one line.
func lines(entries []any) string {
	texts := []string{}
	for _, entry := range entries {
		text, err := marshal(entry)
		if err != nil {
			panic(err)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ",\n")
}

// All documents of a stream, as kubectl sends them to the API server: it ignores those that are null.
func manifest(text string) answer {
	decoder := kubernetes.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	documents := []json.RawMessage{}
	for {
		var document json.RawMessage
		err := guarded(func() error { return decoder.Decode(&document) })
		if errors.Is(err, io.EOF) {
			return encoded(documents)
		}
		if err != nil {
			return answer{Error: err.Error()}
		}
		if document = bytes.TrimSpace(document); len(document) > 0 && !bytes.Equal(document, []byte("null")) {
			documents = append(documents, document)
		}
	}
}

func arguments(text string) answer {
	var arguments map[string]any
	if err := guarded(func() error { return yaml.Unmarshal([]byte(text), &arguments) }); err != nil {
		return answer{Error: err.Error()}
	}
	return encoded(arguments)
}

func readObjects(text string) answer {
	var secrets []secret
	if err := guarded(func() error { return yaml.Unmarshal([]byte(text), &secrets) }); err != nil {
		return answer{Error: err.Error()}
	}
	return encoded(secrets)
}

func encoded(value any) answer {
	text, err := marshal(value)
	if err != nil {
		return answer{Error: err.Error()}
	}
	return answer{JSON: text}
}

// As json.Marshal does, but not for `<`, `>` and `&`, which json.Marshal escapes because of HTML.
func marshal(value any) (string, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return strings.TrimSpace(out.String()), err
}

// Some inputs make a library panic.
func guarded(read func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("panic: %v", cause)
		}
	}()
	return read()
}
