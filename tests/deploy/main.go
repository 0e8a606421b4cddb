// What Kubernetes and BuildKit say of the files in scripts/deploy, by their own code.
//
//	check objects DIRECTORY                     builds a kustomization; prints the objects in JSON,
//	                                            with every default, or why they are refused
//	check containerfile FILE                    prints its stages in JSON, or why it is refused
//	check grpc-probe HOST PORT SERVICE          probes as a kubelet does
//	check https-probe HOST PORT PATH            likewise
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	corevalidation "k8s.io/kubernetes/pkg/apis/core/validation"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/probe"
	grpcprobe "k8s.io/kubernetes/pkg/probe/grpc"
	httpprobe "k8s.io/kubernetes/pkg/probe/http"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	psapi "k8s.io/pod-security-admission/api"
	pspolicy "k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// How the API server creates these kinds. Services and service accounts drag in too much.
var strategies = map[string]rest.RESTCreateStrategy{
	"Deployment":              deployment.Strategy,
	"HorizontalPodAutoscaler": horizontalpodautoscaler.Strategy,
	"NetworkPolicy":           networkpolicy.Strategy,
	"PodDisruptionBudget":     poddisruptionbudget.Strategy,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 2 && arguments[0] == "objects":
		return objects(arguments[1])
	case len(arguments) == 2 && arguments[0] == "containerfile":
		return containerfile(arguments[1])
	case len(arguments) == 4:
		return probed(arguments[0], arguments[1], arguments[2], arguments[3])
	}
	return fmt.Errorf("see the comment in main.go")
}

func objects(directory string) error {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), directory)
	if err != nil {
		return err
	}
	found := []json.RawMessage{}
	for _, resource := range built.Resources() {
		data, err := resource.MarshalJSON()
		if err != nil {
			return err
		}
		object, err := accepted(data)
		if err != nil {
			return fmt.Errorf("%s: %w", resource.CurId(), err)
		}
		found = append(found, object)
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

// The object as the API server would keep it.
func accepted(data []byte) (json.RawMessage, error) {
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	versioned, kind, err := codecs.UniversalDeserializer().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	if err := secure(versioned); err != nil {
		return nil, err
	}
	internal, _, err := codecs.UniversalDecoder().Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	accessor, err := meta.Accessor(internal)
	if err != nil {
		return nil, err
	}
	rest.FillObjectMetaSystemFields(accessor)
	switch object := internal.(type) {
	case *core.Service:
		if address := object.Spec.ClusterIP; address != "" { // As the API server prepares it.
			object.Spec.ClusterIPs = []string{address}
		}
		err = corevalidation.ValidateServiceCreate(object).ToAggregate()
	case *core.ServiceAccount:
		err = corevalidation.ValidateServiceAccount(object).ToAggregate()
	default:
		strategy, ok := strategies[kind.Kind]
		if !ok {
			return nil, fmt.Errorf("nothing is known of this kind")
		}
		err = rest.BeforeCreate(strategy, requested(*kind, accessor), internal)
	}
	if err != nil {
		return nil, err
	}
	return runtime.Encode(codecs.LegacyCodec(kind.GroupVersion()), internal)
}

func requested(kind schema.GroupVersionKind, object metav1.Object) context.Context {
	plural, _ := meta.UnsafeGuessKindToResource(kind)
	return genericapirequest.WithRequestInfo(
		genericapirequest.WithNamespace(context.Background(), object.GetNamespace()),
		&genericapirequest.RequestInfo{
			IsResourceRequest: true,
			Verb:              "create",
			APIGroup:          kind.Group,
			APIVersion:        kind.Version,
			Resource:          plural.Resource,
			Namespace:         object.GetNamespace(),
		},
	)
}

// What the strictest Pod Security Standard says of the pods.
func secure(object runtime.Object) error {
	wanted, ok := object.(*appsv1.Deployment)
	if !ok {
		return nil
	}
	evaluator, err := pspolicy.NewEvaluator(pspolicy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	level := psapi.LevelVersion{Level: psapi.LevelRestricted, Version: psapi.LatestVersion()}
	template := &wanted.Spec.Template
	results := evaluator.EvaluatePod(level, &template.ObjectMeta, &template.Spec)
	if result := pspolicy.AggregateCheckResults(results); !result.Allowed {
		return fmt.Errorf("Pod Security Standard restricted: %s", result.ForbiddenDetail())
	}
	return nil
}

func probed(how, host, port, what string) error {
	const timeout = 5 * time.Second
	var result probe.Result
	var said string
	var err error
	switch how {
	case "grpc-probe":
		number, failure := strconv.Atoi(port)
		if failure != nil {
			return failure
		}
		result, said, err = grpcprobe.New().Probe(host, what, number, timeout)
	case "https-probe":
		address := url.URL{Scheme: "https", Host: host + ":" + port, Path: what}
		request, failure := http.NewRequest(http.MethodGet, address.String(), nil)
		if failure != nil {
			return failure
		}
		result, said, err = httpprobe.New(false).Probe(request, timeout)
	default:
		return fmt.Errorf("there is no %s", how)
	}
	if err != nil {
		return err
	}
	if result != probe.Success {
		return fmt.Errorf("%s: %s", result, said)
	}
	return nil
}
