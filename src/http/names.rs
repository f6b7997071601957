//! Name look-ups. The system does them on a thread that cannot be stopped: a name that nobody resolves blocks it for half a minute. So the
//! threads are turns. All tenants whose classes name addresses share one set of them; the addresses of the configuration have other
//! threads.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::vec;

use hyper_util::client::legacy::connect::dns::Name;
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant};
use tower::Service;

use crate::model::Tenant;
use crate::turns::Turns;

/// The threads of a client that shares with no other.
const OWN: usize = 4;

/// For the names in classes, on the whole node: even if many backends let classes name addresses, the runtime has only 512 threads.
static OF_CLASSES: LazyLock<Turns> = LazyLock::new(|| Turns::new(16));

/// How long a look-up waits for a thread: as long as a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The threads, and the tenant that the look-ups are charged to.
#[derive(Clone, Debug)]
pub struct Names {
    threads: Turns,
    tenant: Tenant,
}

impl Names {
    pub fn new(threads: Turns, tenant: Tenant) -> Self {
        Self { threads, tenant }
    }

    /// For the addresses that a tenant's classes give.
    pub fn of_classes(tenant: Tenant) -> Self {
        Self::new(OF_CLASSES.clone(), tenant)
    }

    #[cfg(test)]
    pub(crate) fn threads(&self) -> &Turns {
        &self.threads
    }
}

impl Default for Names {
    /// Its own threads.
    fn default() -> Self {
        Self::new(Turns::new(OWN), Tenant::from(""))
    }
}

impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { threads, tenant } = self.clone();
        Box::pin(async move {
            let hangs =
                || io::Error::new(io::ErrorKind::TimedOut, "other names are still being looked up (check that the name server answers)");
            let turn = threads.take(&tenant, Instant::now() + PATIENCE).await.ok_or_else(hangs)?;
            let found = spawn_blocking(move || {
                // Held until the look-up has really ended, even if nobody waits for it.
                let _turn = turn;
                (name.as_str(), 0).to_socket_addrs()
            });
            found.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(threads: &Turns, tenant: &str) -> Names {
        Names::new(threads.clone(), tenant.into())
    }

    #[tokio::test]
    async fn a_name_is_looked_up() {
        let found: Vec<_> = Names::default().call("localhost".parse().unwrap()).await.unwrap().collect();
        assert!(found.iter().all(|address| address.ip().is_loopback()) && !found.is_empty(), "{found:?}");
        assert!(Names::default().call("no.such.name.invalid".parse().unwrap()).await.is_err());
    }

    /// Takes the turns as look-ups would that hang.
    #[tokio::test(start_paused = true)]
    async fn one_tenants_names_that_hang_leave_threads_to_others() {
        let threads = Turns::new(8);
        let mut hung = Vec::new();
        while let Some(turn) = threads.take(&"hostile".into(), Instant::now()).await {
            hung.push(turn);
        }
        assert_eq!(hung.len(), 4);
        let refused = of(&threads, "hostile").call("localhost".parse().unwrap()).await.map(|_| ());
        assert_eq!(refused.unwrap_err().to_string(), "other names are still being looked up (check that the name server answers)");
        of(&threads, "shop").call("localhost".parse().unwrap()).await.unwrap();
        of(&threads, "").call("localhost".parse().unwrap()).await.unwrap();
        assert_eq!(threads.slots().of("shop"), 0);
    }
}
