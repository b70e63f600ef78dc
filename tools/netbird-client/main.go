// Uses a setup-key API through NetBird's own REST client, as its tools do, and checks what the client makes of the answers.
//
// The API is at NETBIRD_URL; NETBIRD_CA is a file with the authority of its certificate. The token comes on standard
// input, for everybody can read command lines and many can read environments. Keys are not printed.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/netbirdio/netbird/shared/management/client/rest"
	"github.com/netbirdio/netbird/shared/management/http/api"
)

var (
	wholeKey = regexp.MustCompile(`^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$`)
	masked   = regexp.MustCompile(`^[0-9A-F]{5}\*{4}$`)
	id       = regexp.MustCompile(`^[0-9a-v]{20}$`)
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	keys := client()

	key := created(ctx, keys)
	listed(ctx, keys, key)
	changed(ctx, keys, key)
	refused(ctx, keys)
	deleted(ctx, keys, key.Id)
	fmt.Println("all as NetBird's client expects it")
}

func client() *rest.SetupKeysAPI {
	token, err := io.ReadAll(os.Stdin)
	must("read the token", err)
	authority, err := os.ReadFile(os.Getenv("NETBIRD_CA"))
	must("read NETBIRD_CA", err)
	roots := x509.NewCertPool()
	check(roots.AppendCertsFromPEM(authority), "NETBIRD_CA holds a certificate")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	return rest.NewWithOptions(
		rest.WithManagementURL(os.Getenv("NETBIRD_URL")),
		rest.WithPAT(strings.TrimSpace(string(token))),
		rest.WithHttpClient(&http.Client{Transport: transport}),
	).SetupKeys
}

func created(ctx context.Context, keys *rest.SetupKeysAPI) *api.SetupKeyClear {
	before := time.Now().Truncate(time.Second)
	yes := true
	key, err := keys.Create(ctx, api.PostApiSetupKeysJSONRequestBody{
		Name: "Office, 2nd floor", Type: "reusable", ExpiresIn: 86400, AutoGroups: []string{"office", "printers"},
		UsageLimit: 3, Ephemeral: &yes, AllowExtraDnsLabels: &yes,
	})
	must("create", err)
	check(wholeKey.MatchString(key.Key), "the answer to a creation shows the key")
	check(id.MatchString(key.Id), "the id is one of NetBird's kind")
	check(key.Name == "Office, 2nd floor" && key.Type == "reusable" && key.UsageLimit == 3, "name, type and limit are kept")
	check(key.Ephemeral && key.AllowExtraDnsLabels, "both options are kept")
	check(slices.Equal(key.AutoGroups, []string{"office", "printers"}), "the groups are kept")
	check(key.State == "valid" && key.Valid && !key.Revoked && key.UsedTimes == 0, "a new key is valid and unused")
	check(key.LastUsed.IsZero(), "never used is the zero time")
	lifetime := key.Expires.Sub(before)
	check(lifetime >= 24*time.Hour && lifetime < 24*time.Hour+time.Minute, "it expires in a day")
	check(!key.UpdatedAt.Before(before), "it was updated when it was created")

	once, err := keys.Create(ctx, api.PostApiSetupKeysJSONRequestBody{Name: key.Name, Type: "one-off", ExpiresIn: 86400})
	must("create a second key of the same name", err)
	check(once.Id != key.Id && once.Key != key.Key, "a name need not be unique")
	check(once.UsageLimit == 1, "a one-off key can be used once")
	check(once.AutoGroups != nil && len(once.AutoGroups) == 0, "no groups are an empty list")
	must("delete it", keys.Delete(ctx, once.Id))
	return key
}

func listed(ctx context.Context, keys *rest.SetupKeysAPI, key *api.SetupKeyClear) {
	one, err := keys.Get(ctx, key.Id)
	must("get", err)
	check(masked.MatchString(one.Key) && one.Key[:5] == key.Key[:5], "only a creation shows the key")
	expected := api.SetupKey(*key)
	expected.Key = one.Key
	check(equal(*one, expected), "the key is otherwise as it was created")

	all, err := keys.List(ctx)
	must("list", err)
	check(len(all) == 1 && equal(all[0], *one), "the list has the same")
}

func changed(ctx context.Context, keys *rest.SetupKeysAPI, key *api.SetupKeyClear) {
	change := func(what string, groups []string, revoked bool) *api.SetupKey {
		changed, err := keys.Update(ctx, key.Id, api.PutApiSetupKeysKeyIdJSONRequestBody{AutoGroups: groups, Revoked: revoked})
		must(what, err)
		check(changed.Revoked == revoked && slices.Equal(changed.AutoGroups, groups), what+": both fields are as sent")
		check(masked.MatchString(changed.Key), what+": the key is not shown")
		again, err := keys.Get(ctx, key.Id)
		must("get", err)
		check(again.State == changed.State && again.Valid == changed.Valid, what+": the next answer is the same")
		return changed
	}
	check(change("change the groups", []string{"servers"}, false).State == "valid", "other groups leave it valid")
	revoked := change("revoke", []string{"servers"}, true)
	check(revoked.State == "revoked" && !revoked.Valid, "a revoked key says so")
	check(change("change the groups of a revoked key", []string{}, true).State == "revoked", "it stays revoked")
	check(change("un-revoke", []string{"office"}, false).State == "valid", "a key can be un-revoked")
}

func refused(ctx context.Context, keys *rest.SetupKeysAPI) {
	refuse := func(what string, err error, status int, message string) {
		var answer *rest.APIError
		check(errors.As(err, &answer), what+": the client understands the error")
		check(answer.StatusCode == status, fmt.Sprintf("%s: the status is %d, not %d", what, status, answer.StatusCode))
		check(strings.Contains(answer.Message, message), fmt.Sprintf("%s: %q is said, not %q", what, message, answer.Message))
	}
	create := func(change func(*api.PostApiSetupKeysJSONRequestBody)) error {
		request := api.PostApiSetupKeysJSONRequestBody{Name: "bad", Type: "reusable", ExpiresIn: 86400}
		change(&request)
		_, err := keys.Create(ctx, request)
		return err
	}
	type request = api.PostApiSetupKeysJSONRequestBody
	refuse("no name", create(func(r *request) { r.Name = "" }), 422, "setup key name shouldn't be empty")
	refuse("no type", create(func(r *request) { r.Type = "weird" }), 422, "unknown setup key type weird")
	refuse("a past expiry", create(func(r *request) { r.ExpiresIn = -1 }), 422, "expiresin can not be in the past")
	refuse("no expiry", create(func(r *request) { r.ExpiresIn = 0 }), 422, "expires_in must be from 86400")
	refuse("a negative limit", create(func(r *request) { r.UsageLimit = -5 }), 422, "usage_limit must be from 0")
	refuse("a bad group", create(func(r *request) { r.AutoGroups = []string{"no spaces"} }), 422, "invalid auto groups: ")
	refuse("one-off, five uses", create(func(r *request) { r.Type, r.UsageLimit = "one-off", 5 }), 422, "usage_limit 5 is not valid")

	const unknown = "00000000000000000000"
	_, err := keys.Get(ctx, unknown)
	check(rest.IsNotFound(err), "an unknown key is not found")
	refuse("get", err, 404, "setup key: "+unknown+" not found")
	_, err = keys.Update(ctx, unknown, api.PutApiSetupKeysKeyIdJSONRequestBody{AutoGroups: []string{}})
	check(rest.IsNotFound(err), "an unknown key cannot be updated")
	check(rest.IsNotFound(keys.Delete(ctx, unknown)), "an unknown key cannot be deleted")
	_, err = keys.Update(ctx, unknown, api.PutApiSetupKeysKeyIdJSONRequestBody{})
	refuse("an update without groups", err, 422, "setup key autogroups field is invalid")
}

func deleted(ctx context.Context, keys *rest.SetupKeysAPI, id string) {
	must("delete", keys.Delete(ctx, id))
	_, err := keys.Get(ctx, id)
	check(rest.IsNotFound(err), "a deleted key is gone")
	check(rest.IsNotFound(keys.Delete(ctx, id)), "it cannot be deleted again")
	all, err := keys.List(ctx)
	must("list", err)
	check(len(all) == 0, "nothing is left")
}

func equal(a, b api.SetupKey) bool {
	return fmt.Sprintf("%+v", a) == fmt.Sprintf("%+v", b)
}

func must(what string, err error) {
	check(err == nil, fmt.Sprintf("%s: %v", what, err))
}

func check(holds bool, what string) {
	if !holds {
		fmt.Fprintln(os.Stderr, "not so:", what)
		os.Exit(1)
	}
}
