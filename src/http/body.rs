//! The body of an answer: gathered in memory that is wiped, with a limit for its size. It may be a secret.

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use zeroize::Zeroizing;

use super::HttpError;
use crate::budget::{Growing, Payer, Spent};
use crate::model::SecretBytes;

/// How many copies of each byte of a body exist while it is read: the raw byte, and what is made of it.
const COPIES: usize = 2;

/// The body, and what it has cost: the caller keeps that until everything is made of the body.
///
/// # Errors
/// It is too large, or cannot be paid for, or breaks off.
pub(super) async fn gather(mut body: Incoming, limit: usize, payer: Option<Payer>) -> Result<(SecretBytes, Option<Spent>), HttpError> {
    let too_large = || HttpError::TooLarge { limit };
    let announced = usize::try_from(body.size_hint().lower()).map_err(|_| too_large())?;
    if announced > limit {
        return Err(too_large());
    }
    // Room for the announced length: a buffer that grows leaves copies behind.
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
