//! Bad input, and the exact words it is answered with. After every refusal the same daemon serves a good mount.
//!
//! A snapshot holds a table of cases: what is wrong, and below it the gRPC code and the message.

use keyferry::server::proto::MountRequest;
use serde_json::Value;
use tonic::Status;

use crate::support::{Client, House, Provider, assert_no_trap, shown, web};

mod classes;
mod request;
mod secrets;
mod tokens;

/// What kubelet and driver let through at most, with room for their own words.
const LONGEST: usize = 4096;

const GOOD: &str = "- {secret: shop/db, field: username}";

/// A daemon that is asked for what it must refuse.
struct Asked {
    house: House,
    provider: Provider,
    client: Client,
}

/// What is wrong, and a request with it.
type Case = (&'static str, MountRequest);

impl Asked {
    async fn new(house: House) -> Self {
        let provider = house.serve();
        let client = provider.client().await;
        Self { house, provider, client }
    }

    /// The table of a snapshot.
    async fn refusals(&self, cases: impl IntoIterator<Item = Case>) -> String {
        let mut table = Vec::new();
        for (what, request) in cases {
            let refusal = self.refusal(request).await;
            table.push(format!("# {what}\n{refusal}"));
        }
        table.join("\n")
    }

    /// Code and message, the house's own folder replaced. The daemon goes on serving.
    async fn refusal(&self, request: MountRequest) -> String {
        let status = self.client.clone().mount(request).await.map(|_| ()).unwrap_err();
        self.goes_on().await;
        self.words(&status)
    }

    fn words(&self, status: &Status) -> String {
        assert_no_trap(status);
        assert!(status.message().len() <= LONGEST, "{} bytes: {status}", status.message().len());
        assert!(status.details().is_empty() && status.message().contains(": "), "{status}");
        let message = status.message().replace(self.house.folder.path().to_str().unwrap(), "<house>");
        format!("{:?} {message}", status.code())
    }

    async fn goes_on(&self) {
        let answer = self.client.clone().mount(self.house.request(&web(), GOOD)).await.unwrap();
        assert_eq!(shown(answer.get_ref()), ["username 0644 app"]);
    }

    /// A case of one class.
    fn class(&self, what: &'static str, objects: &str) -> Case {
        (what, self.house.request(&web(), objects))
    }

    /// A case of a class's parameters.
    fn parameters(&self, what: &'static str, parameters: Value) -> Case {
        (what, self.house.asking(&web(), parameters))
    }
}
