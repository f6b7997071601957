//! Looking up names. The system does it on a thread that cannot be called back: a name that nobody resolves takes it for half a minute. So
//! the threads are turns. All tenants whose classes name addresses share one set of them; the configuration's own addresses have others.

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

/// What a client has that shares with nobody.
const OWN: usize = 4;

/// For the names that classes give, on the whole node: however many backends let classes name addresses, the runtime has 512 threads.
static OF_CLASSES: LazyLock<Turns> = LazyLock::new(|| Turns::new(16));

/// How long a look-up waits for a thread. It is as long as a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The threads, and on whose account names are looked up.
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
    /// Threads of its own.
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
                || io::Error::new(io::ErrorKind::TimedOut, "other names are still being looked up (see that the name server answers)");
            let turn = threads.take(&tenant, Instant::now() + PATIENCE).await.ok_or_else(hangs)?;
            let found = spawn_blocking(move || {
                // Held until the look-up has really ended, whoever waits for it.
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

    /// The turns are taken as look-ups that hang would take them.
    #[tokio::test(start_paused = true)]
    async fn one_tenants_names_that_hang_leave_threads_to_others() {
        let threads = Turns::new(8);
        let mut hung = Vec::new();
        while let Some(turn) = threads.take(&"hostile".into(), Instant::now()).await {
            hung.push(turn);
        }
        assert_eq!(hung.len(), 4);
        let refused = of(&threads, "hostile").call("localhost".parse().unwrap()).await.map(|_| ());
        assert_eq!(refused.unwrap_err().to_string(), "other names are still being looked up (see that the name server answers)");
        of(&threads, "shop").call("localhost".parse().unwrap()).await.unwrap();
        of(&threads, "").call("localhost".parse().unwrap()).await.unwrap();
        assert_eq!(threads.slots().of("shop"), 0);
    }
}
