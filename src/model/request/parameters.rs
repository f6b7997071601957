//! A class's parameters as they are in the call. They are borrowed if they have no escape, since most mounts only look up a known class.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Keys and values, each key once and in order.
#[derive(Default)]
pub struct Parameters<'c>(Vec<(Cow<'c, str>, Cow<'c, str>)>);

impl<'c> Parameters<'c> {
    /// Parameters that were kept from another call.
    pub fn of(kept: &'c BTreeMap<String, String>) -> Self {
        Self(kept.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect())
    }

    /// # Errors
    /// The key is there already.
    pub fn insert(&mut self, key: Cow<'c, str>, value: Cow<'c, str>) -> Result<(), Cow<'c, str>> {
        // If they come in order, as the driver writes them, they go to the end.
        let place = match self.0.last() {
            Some((last, _)) if *last >= key => match self.find(&key) {
                Ok(_) => return Err(key),
                Err(place) => place,
            },
            Some(_) | None => self.0.len(),
        };
        self.0.insert(place, (key, value));
        Ok(())
    }

    /// Replaces a former value.
    pub fn replace(&mut self, key: &'c str, value: &'c str) {
        match self.find(key) {
            Ok(place) => self.0[place].1 = Cow::Borrowed(value),
            Err(place) => self.0.insert(place, (Cow::Borrowed(key), Cow::Borrowed(value))),
        }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        Some(&self.0[self.find(key).ok()?].1)
    }

    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| &**key)
    }

    /// Whether they are the same as the kept ones of another call.
    pub fn is(&self, kept: &BTreeMap<String, String>) -> bool {
        self.0.len() == kept.len() && self.0.iter().zip(kept).all(|((key, value), kept)| (&**key, &**value) == (&**kept.0, &**kept.1))
    }

    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(key, value)| (key.clone().into_owned(), value.clone().into_owned())).collect()
    }

    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(key))
    }
}

impl Hash for Parameters<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

/// Only the keys: by mistake, a value may be a secret.
impl fmt::Debug for Parameters<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_in_order_and_each_is_there_once() {
        let mut parameters = Parameters::default();
        for key in ["c", "a", "b", "d"] {
            parameters.insert(key.into(), "1".into()).unwrap();
        }
        for key in ["a", "d", "c"] {
            assert_eq!(parameters.insert(key.into(), "2".into()).unwrap_err(), key);
        }
        parameters.replace("b", "3");
        parameters.replace("bb", "4");
        let kept = parameters.to_map();
        assert!(parameters.keys().eq(["a", "b", "bb", "c", "d"]) && parameters.is(&kept));
        assert_eq!(["a", "b", "bb", "e"].map(|key| parameters.get(key)), [Some("1"), Some("3"), Some("4"), None]);
        parameters.replace("a", "5");
        assert!(!parameters.is(&kept), "a value");
        parameters.insert("e".into(), "6".into()).unwrap();
        assert!(!parameters.is(&kept), "one more");
        assert_eq!(format!("{parameters:?}"), r#"["a", "b", "bb", "c", "d", "e"]"#);
    }
}
