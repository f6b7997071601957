//! What a mount costs, each figure with its floor from the same run: `make bench` (`make soak` for ten times the calls).
//!
//! The provider, the stores and the floor (this program again, as a bare tonic echo of the same bytes) are processes of their own; the
//! client is one connection in this process, on the same cores. Figures from a shared machine vary, so look at the ratios.

#![allow(clippy::print_stdout)] // tables for a person

use measure::Outcome;

// Test support, as the integration tests have it.
#[path = "../../tests/it/api_server.rs"]
mod api_server;
#[path = "../../tests/it/bao.rs"]
mod bao;
mod counts;
mod files;
#[path = "../../tests/it/folder.rs"]
mod folder;
mod instructions;
mod measure;
mod store;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let is_given = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if let Some(at) = arguments.iter().position(|argument| argument == "--echo") {
        return runtime.block_on(measure::echo(&arguments[at + 1], &arguments[at + 2]));
    }
    let factor = if is_given("--soak") { 10 } else { 1 };
    runtime.block_on(async {
        if is_given("--instructions") {
            return instructions::count().await;
        }
        if !is_given("--store") {
            files::bench(factor).await?;
        }
        if !is_given("--files") {
            store::bench(factor).await?;
        }
        Ok(())
    })
}
