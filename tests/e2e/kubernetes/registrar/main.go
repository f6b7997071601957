// The registrar tells kubelet where a CSI driver's socket is. Kubelet watches a folder for registration sockets, asks each for what
// it registers, and then calls the driver itself.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type registrar struct {
	registration.UnimplementedRegistrationServer
	driver, endpoint string
}

func (r *registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type:              registration.CSIPlugin,
		Name:              r.driver,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("kubelet refused the registration: %s", status.Error)
	}
	log.Print("registered")
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	socket := flag.String("socket", "", "the registration socket, in kubelet's folder plugins_registry")
	driver := flag.String("driver", "secrets-store.csi.k8s.io", "the driver's name")
	endpoint := flag.String("endpoint", "", "the driver's socket, as kubelet sees it")
	flag.Parse()
	_ = os.Remove(*socket)
	listener, err := net.Listen("unix", *socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, &registrar{driver: *driver, endpoint: *endpoint})
	log.Fatal(server.Serve(listener))
}
