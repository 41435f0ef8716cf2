//go:build tools

// Package programs keeps in go.mod what is built from a dependency's own main package.
package programs

import _ "helm.sh/helm/v3/cmd/helm"
