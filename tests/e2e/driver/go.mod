module keyferry/tests/e2e/driver

go 1.25.9

require (
	google.golang.org/grpc v1.79.3
	k8s.io/klog/v2 v2.120.1
	sigs.k8s.io/secrets-store-csi-driver v1.6.0
)

replace monis.app/mlog => ./mlog
