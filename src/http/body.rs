//! The body of an answer: gathered in memory that is wiped, and no larger than it may be. It may be a secret.

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use zeroize::Zeroizing;

use super::HttpError;
use crate::budget::{Growing, Payer, Spent};
use crate::model::SecretBytes;

/// How often each byte of a body is there while it is read: as it came, and as what is made of it.
const COPIES: usize = 2;

/// The body, and what it has cost: that is to be kept until all has been made of it.
///
/// # Errors
/// It is over the limit, or cannot be paid for, or breaks.
pub(super) async fn gather(mut body: Incoming, limit: usize, payer: Option<Payer>) -> Result<(SecretBytes, Option<Spent>), HttpError> {
    let too_large = || HttpError::TooLarge { limit };
    let announced = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    if announced > limit {
        return Err(too_large());
    }
    // Room for all that is announced: a buffer that grows leaves copies behind.
    let mut cost = Growing::new(payer);
    cost.add(announced * COPIES)?;
    let mut paid = announced;
    let mut gathered = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| HttpError::of_body(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        if gathered.len() + data.len() > limit {
            return Err(too_large());
        }
        if gathered.len() + data.len() > paid {
            cost.add((gathered.len() + data.len() - paid) * COPIES)?;
            paid = gathered.len() + data.len();
        }
        if gathered.len() + data.len() > gathered.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity((2 * gathered.capacity()).max(gathered.len() + data.len())));
            larger.extend_from_slice(&gathered);
            gathered = larger;
        }
        gathered.extend_from_slice(data);
    }
    Ok((SecretBytes::from(gathered), cost.spent()))
}
