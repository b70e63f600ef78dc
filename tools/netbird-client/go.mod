// What NetBird's own REST client makes of our API.
module setupkey.dev/tools/netbird-client

go 1.26.0

require github.com/netbirdio/netbird v0.77.1

require (
	github.com/apapsch/go-jsonmerge/v2 v2.0.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/oapi-codegen/runtime v1.1.2 // indirect
	github.com/sirupsen/logrus v1.9.4 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
