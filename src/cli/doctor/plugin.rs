//! Asks a CSI driver for its name and version, as kubelet does (the CSI specification, "GetPluginInfo").

use std::io;
use std::path::Path;

use super::super::client::channel;
use crate::model::clean;
use crate::server::proto::csi::GetPluginInfoRequest;
use crate::server::proto::csi::identity_client::IdentityClient;

/// What a driver says about itself.
#[derive(Debug)]
pub struct Info {
    pub name: String,
    /// Its release.
    pub version: String,
}

/// # Errors
/// Nobody listens at the socket, or the listener is not a CSI driver.
pub async fn info(socket: &Path) -> io::Result<Info> {
    let channel = channel(socket).await.map_err(|error| error.cause)?;
    let answer = IdentityClient::new(channel).get_plugin_info(GetPluginInfoRequest {}).await;
    let info = answer.map_err(|status| io::Error::other(clean(&status.to_string())))?.into_inner();
    Ok(Info { name: clean(&info.name), version: clean(&info.vendor_version) })
}
