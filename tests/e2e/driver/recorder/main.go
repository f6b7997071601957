// Recorder is a provider without a store: it records what the Secrets Store CSI driver sends, and answers as the class says.
//
// The end-to-end tests use it twice. Its records become tests/golden/driver-*.json, which the tests' own driver is compared with.
// And it gives the answers that Keyferry never gives, as a control: the checks must see what happens after them.
//
// A class chooses its answers by its parameter `answers`, a JSON list. The calls for one volume take them in turn, and the last one
// stays. Without the parameter, each call gets one file. For example:
//
//	[{"code": "DEADLINE_EXCEEDED", "message": "too slow", "after": "3s"}, {"files": {"password": "x"}}]
//
// Each call is one line of JSON in the record: when it came, for which Pod, and its shape. A shape is what two runs have in common:
// a name in angle brackets replaces what belongs to one Pod or one cluster. The record has no token, only its claims.
package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"sigs.k8s.io/secrets-store-csi-driver/provider/v1alpha1"
)

const (
	kubelet = "csi.storage.k8s.io/"
	tokens  = kubelet + "serviceAccount.tokens"
)

func main() {
	socket := flag.String("socket", "/var/run/secrets-store-csi-providers/recorder.sock", "the Unix socket to listen on")
	record := flag.String("record", "calls.jsonl", "the file that gets one line for each call")
	flag.Parse()
	if err := serve(*socket, *record); err != nil {
		log.Fatal(err)
	}
}

func serve(socket, record string) error {
	out, err := os.OpenFile(record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.InTapHandle(withHeaders))
	v1alpha1.RegisterCSIDriverProviderServer(server, &recorder{out: out, tries: map[string]int{}})
	return server.Serve(&tee{Listener: listener})
}

type recorder struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	lock  sync.Mutex
	out   *os.File
	calls int
	// By target path: how many calls there were.
	tries map[string]int
}

// One answer that a class chose. A code of OK without files is an answer without files.
type answer struct {
	// By gRPC's own name, such as DEADLINE_EXCEEDED. Empty is OK.
	Code     string            `json:"code,omitempty"`
	Message  string            `json:"message,omitempty"`
	After    string            `json:"after,omitempty"`
	Files    map[string]string `json:"files,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
	// MountResponse.error.code
	Error string `json:"error,omitempty"`
	// No answer: the process ends in the middle of the call.
	Exit bool `json:"exit,omitempty"`
}

type line struct {
	Call   int     `json:"call"`
	At     string  `json:"at"`
	Pod    string  `json:"pod,omitempty"`
	Try    int     `json:"try,omitempty"`
	Answer *answer `json:"answer,omitempty"`
	Shape  *shape  `json:"shape,omitempty"`
	// Why a call ended before its answer.
	Ended string `json:"ended,omitempty"`
}

type shape struct {
	Method    string            `json:"method"`
	Authority string            `json:"authority"`
	Headers   map[string]string `json:"headers"`
	Request   any               `json:"request"`
}

func (r *recorder) Version(ctx context.Context, in *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	r.write(line{Shape: shapeOf(ctx, map[string]any{"version": in.GetVersion()})})
	return &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "recorder", RuntimeVersion: "1.0.0"}, nil
}

func (r *recorder) Mount(ctx context.Context, in *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	var attributes map[string]string
	if err := json.Unmarshal([]byte(in.GetAttributes()), &attributes); err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "attributes: %v", err)
	}
	try := r.try(in.GetTargetPath())
	chosen, err := choose(attributes["answers"], try)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "answers: %v", err)
	}
	code, after, err := chosen.parsed()
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "answers: %v", err)
	}
	pod := attributes[kubelet+"pod.namespace"] + "/" + attributes[kubelet+"pod.name"]
	call := r.write(line{Pod: pod, Try: try, Answer: &chosen, Shape: shapeOf(ctx, mountShape(in, attributes))})
	select {
	case <-time.After(after):
	case <-ctx.Done():
		r.write(line{Call: call, Pod: pod, Try: try, Ended: ctx.Err().Error()})
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if chosen.Exit {
		os.Exit(0)
	}
	if code != codes.OK {
		return nil, status.Error(code, chosen.Message)
	}
	return response(&chosen), nil
}

func (r *recorder) try(target string) int {
	r.lock.Lock()
	defer r.lock.Unlock()
	r.tries[target]++
	return r.tries[target]
}

func choose(answers string, try int) (answer, error) {
	if answers == "" {
		return answer{Files: map[string]string{"recorded": "by the recorder\n"}}, nil
	}
	var list []answer
	if err := json.Unmarshal([]byte(answers), &list); err != nil {
		return answer{}, err
	}
	if len(list) == 0 {
		return answer{}, errors.New("an empty list")
	}
	return list[min(try, len(list))-1], nil
}

func (a *answer) parsed() (code codes.Code, after time.Duration, err error) {
	if a.Code != "" {
		if err = code.UnmarshalJSON([]byte(strconv.Quote(a.Code))); err != nil {
			return code, 0, err
		}
	}
	if a.After != "" {
		after, err = time.ParseDuration(a.After)
	}
	return code, after, err
}

func response(a *answer) *v1alpha1.MountResponse {
	out := &v1alpha1.MountResponse{}
	if a.Error != "" {
		out.Error = &v1alpha1.Error{Code: a.Error}
	}
	versions := a.Versions
	if versions == nil {
		versions = map[string]string{"recorded": "1"}
	}
	for id, version := range versions {
		out.ObjectVersion = append(out.ObjectVersion, &v1alpha1.ObjectVersion{Id: id, Version: version})
	}
	for path, contents := range a.Files {
		out.Files = append(out.Files, &v1alpha1.File{Path: path, Mode: 0o644, Contents: []byte(contents)})
	}
	return out
}

// Writes a line, and gives a new call its number.
func (r *recorder) write(l line) int {
	r.lock.Lock()
	defer r.lock.Unlock()
	if l.Call == 0 {
		r.calls++
		l.Call = r.calls
	}
	l.At = time.Now().UTC().Format("2006-01-02T15:04:05.000Z07:00")
	encoder := json.NewEncoder(r.out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(l); err != nil {
		log.Fatal(err)
	}
	return l.Call
}

// === Headers, as they came ===

// grpc-go keeps `te` and `grpc-timeout` to itself, and Go's own HTTP/2 server answers otherwise than a provider does (an error has no
// headers of its own: only then does a driver try again). So the bytes of each connection are read twice.
type tee struct {
	net.Listener
	conns int
}

type teed struct {
	net.Conn
	copy    *io.PipeWriter
	headers chan map[string]string
	number  int
}

// Connections by their address: what grpc-go tells of a call's connection.
var connections sync.Map

func (t *tee) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t.conns++
	in, out := io.Pipe()
	c := &teed{Conn: conn, copy: out, headers: make(chan map[string]string, 1000), number: t.conns}
	connections.Store(c.RemoteAddr().String(), c)
	go c.follow(in)
	return c, nil
}

func (c *teed) RemoteAddr() net.Addr {
	return &net.UnixAddr{Net: "unix", Name: "connection-" + strconv.Itoa(c.number)}
}

func (c *teed) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	if n > 0 {
		// A follower that has ended reads no more.
		_, _ = c.copy.Write(into[:n])
	}
	return n, err
}

func (c *teed) Close() error {
	connections.Delete(c.RemoteAddr().String())
	_ = c.copy.Close()
	return c.Conn.Close()
}

func (c *teed) follow(in *io.PipeReader) {
	defer close(c.headers)
	defer in.Close()
	if _, err := io.CopyN(io.Discard, in, int64(len(http2.ClientPreface))); err != nil {
		return
	}
	framer := http2.NewFramer(io.Discard, in)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		if frame, ok := frame.(*http2.MetaHeadersFrame); ok {
			fields := map[string]string{}
			for _, field := range frame.Fields {
				fields[field.Name] = field.Value
			}
			c.headers <- fields
		}
	}
}

// The key of a call's headers in its context.
type headers struct{}

// Called once for each call, in their order on the connection.
func withHeaders(ctx context.Context, _ *tap.Info) (context.Context, error) {
	from, ok := peer.FromContext(ctx)
	if !ok {
		return nil, errors.New("a call without a peer")
	}
	conn, ok := connections.Load(from.Addr.String())
	if !ok {
		return nil, errors.New("a call of an unknown connection")
	}
	return context.WithValue(ctx, headers{}, <-conn.(*teed).headers), nil
}

// === Shapes ===

func shapeOf(ctx context.Context, request any) *shape {
	all := ctx.Value(headers{}).(map[string]string)
	sent := map[string]string{}
	for name, value := range all {
		if !strings.HasPrefix(name, ":") {
			sent[name] = value
		}
	}
	if timeout, ok := sent["grpc-timeout"]; ok {
		sent["grpc-timeout"] = roundUp(timeout)
	}
	return &shape{Method: all[":path"], Authority: all[":authority"], Headers: sent, Request: request}
}

// A timeout in milliseconds, up to the next whole second: some have passed since the caller began.
func roundUp(timeout string) string {
	millis, err := strconv.Atoi(strings.TrimSuffix(timeout, "m"))
	if err != nil {
		return timeout
	}
	return fmt.Sprintf("%dm", (millis+999)/1000*1000)
}

func mountShape(in *v1alpha1.MountRequest, attributes map[string]string) map[string]any {
	var secrets any
	if err := json.Unmarshal([]byte(in.GetSecrets()), &secrets); err != nil {
		secrets = "not JSON: " + in.GetSecrets()
	}
	names := namesOf(attributes)
	shown := map[string]any{}
	for key, value := range attributes {
		if key != "answers" {
			shown[key] = names.attribute(key, value)
		}
	}
	if given, ok := secrets.(map[string]any); ok {
		for key, value := range given {
			if text, ok := value.(string); ok {
				given[key] = names.attribute(key, text)
			}
		}
	}
	versions := in.GetCurrentObjectVersion()
	if versions == nil {
		versions = []*v1alpha1.ObjectVersion{}
	}
	return map[string]any{
		"attributes":             shown,
		"secrets":                secrets,
		"target_path":            names.target(in.GetTargetPath()),
		"permission":             in.GetPermission(),
		"current_object_version": versions,
	}
}

// What belongs to one Pod, and the name that replaces it.
type names map[string]string

func namesOf(attributes map[string]string) names {
	out := names{}
	for _, key := range []string{"pod.name", "pod.namespace", "pod.uid", "serviceAccount.name"} {
		out[key] = attributes[kubelet+key]
	}
	return out
}

func (n names) attribute(key, value string) any {
	switch {
	case key == tokens:
		return n.tokens(value)
	case key == "secretProviderClass":
		return "<class>"
	case strings.HasPrefix(key, kubelet) && n[strings.TrimPrefix(key, kubelet)] != "":
		return "<" + strings.TrimPrefix(key, kubelet) + ">"
	}
	return value
}

func (n names) target(path string) string {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		switch {
		case part != "" && part == n["pod.uid"]:
			parts[i] = "<pod.uid>"
		case i > 0 && parts[i-1] == "kubernetes.io~csi":
			parts[i] = "<volume>"
		}
	}
	return strings.Join(parts, "/")
}

// {"<audience>": {"token": "<JWT>", "expirationTimestamp": "<RFC 3339>"}}, with the token's claims in its place.
func (n names) tokens(text string) any {
	var given map[string]map[string]string
	if err := json.Unmarshal([]byte(text), &given); err != nil {
		return "not JSON"
	}
	out := map[string]map[string]any{}
	for audience, entry := range given {
		out[audience] = map[string]any{}
		for key, value := range entry {
			switch key {
			case "token":
				out[audience][key] = n.token(value)
			case "expirationTimestamp":
				if _, err := time.Parse(time.RFC3339, value); err == nil {
					value = "<RFC 3339>"
				}
				out[audience][key] = value
			default:
				out[audience][key] = value
			}
		}
	}
	return out
}

func (n names) token(jwt string) any {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return "not a JWT"
	}
	out := map[string]any{}
	for i, name := range []string{"header", "claims"} {
		decoded, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return "not a JWT"
		}
		var value map[string]any
		if err := json.Unmarshal(decoded, &value); err != nil {
			return "not a JWT"
		}
		if exp, ok := value["exp"].(float64); ok {
			if iat, ok := value["iat"].(float64); ok {
				out["lifetime_s"] = exp - iat
			}
		}
		out[name] = n.claims("", value)
	}
	return out
}

func (n names) claims(path string, value any) any {
	object, ok := value.(map[string]any)
	if !ok {
		return n.claim(path, value)
	}
	for key, inner := range object {
		object[key] = n.claims(path+"/"+key, inner)
	}
	return object
}

func (n names) claim(path string, value any) any {
	switch path {
	case "/exp", "/iat", "/nbf", "/kubernetes.io/warnafter":
		return "<seconds>"
	case "/iss":
		return "<issuer>"
	case "/jti":
		return "<id>"
	case "/kid":
		return "<key>"
	case "/kubernetes.io/namespace":
		return "<pod.namespace>"
	case "/kubernetes.io/node/name":
		return "<node>"
	case "/kubernetes.io/node/uid", "/kubernetes.io/serviceaccount/uid":
		return "<uid>"
	case "/kubernetes.io/pod/name":
		return "<pod.name>"
	case "/kubernetes.io/pod/uid":
		return "<pod.uid>"
	case "/kubernetes.io/serviceaccount/name":
		return "<serviceAccount.name>"
	case "/sub":
		if value == "system:serviceaccount:"+n["pod.namespace"]+":"+n["serviceAccount.name"] {
			return "system:serviceaccount:<pod.namespace>:<serviceAccount.name>"
		}
	}
	return value
}
