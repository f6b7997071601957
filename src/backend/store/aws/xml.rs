//! The small part of XML that AWS uses where it does not answer in JSON: elements with texts in them, and the five entities. This needs no
//! crate: there are no attributes that matter, no namespaces and no declarations.

use zeroize::Zeroizing;

/// How deep elements may be nested. STS nests them four deep.
const MAX_DEPTH: usize = 16;

/// The entities for characters with a meaning (XML 1.0, section 4.6).
const ENTITIES: [(&str, char); 5] = [("amp;", '&'), ("apos;", '\''), ("gt;", '>'), ("lt;", '<'), ("quot;", '"')];

/// The text of the first element at the end of `path`: its name comes after the names of the elements around it. `None`: there is no such
/// element, it has other elements in it, or the document has something that AWS never writes.
pub(super) fn text(document: &str, path: &[&str]) -> Option<Zeroizing<String>> {
    let (mut open, mut rest): (Vec<&str>, &str) = (Vec::new(), document);
    while let Some(at) = rest.find('<') {
        let (inside, behind) = rest[at + 1..].split_once('>')?;
        rest = behind;
        if let Some(name) = inside.strip_prefix('/') {
            (open.pop()? == name.trim_end()).then_some(())?;
        } else if inside.starts_with('!') {
            return None;
        } else if !inside.starts_with('?') && !inside.ends_with('/') {
            open.push(inside.split_ascii_whitespace().next()?);
            (open.len() <= MAX_DEPTH).then_some(())?;
            if open.ends_with(path) {
                let (text, end) = rest.split_once('<')?;
                return end.starts_with('/').then(|| resolved(text))?;
            }
        }
    }
    None
}

fn resolved(text: &str) -> Option<Zeroizing<String>> {
    // Each entity is longer than its character: the buffer does not grow.
    let mut plain = Zeroizing::new(String::with_capacity(text.len()));
    let mut parts = text.trim_ascii().split('&');
    plain.push_str(parts.next()?);
    for part in parts {
        let (sign, rest) = ENTITIES.iter().find_map(|(name, sign)| Some((*sign, part.strip_prefix(name)?)))?;
        plain.push(sign);
        plain.push_str(rest);
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = r#"<?xml version="1.0"?>
<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <Error>
    <Type>Sender</Type>
    <Code>InvalidIdentityToken</Code>
    <Message>&quot;a&quot; &amp;amp; &lt;b&gt; isn&apos;t</Message>
  </Error>
  <Empty/><Nothing></Nothing>
  <RequestId>5d8b</RequestId>
</ErrorResponse>"#;

    fn found(document: &str, path: &[&str]) -> Option<String> {
        text(document, path).map(|text| text.to_string())
    }

    #[test]
    fn texts_are_found_by_where_they_are() {
        assert_eq!(found(ERROR, &["Error", "Code"]).unwrap(), "InvalidIdentityToken");
        assert_eq!(found(ERROR, &["ErrorResponse", "Error", "Message"]).unwrap(), r#""a" &amp; <b> isn't"#);
        assert_eq!(found(ERROR, &["RequestId"]).unwrap(), "5d8b");
        assert_eq!(found(ERROR, &["Nothing"]).unwrap(), "");
        for path in [&["Empty"][..], &["Error"], &["Code", "Error"], &["Error", "RequestId"], &["Code "], &["ode"]] {
            assert_eq!(found(ERROR, path), None, "{path:?}");
        }
    }

    #[test]
    fn what_is_not_aws_has_no_texts() {
        for document in [
            "",
            "{}",
            "<",
            "<a",
            "<a>x",
            "<a>x<",
            "<>x</>",
            "< >x</ >",
            "</b><a>x</a>",
            "<b></c><a>x</a>",
            "<a>x<b/></a>",
            "<a>&nbsp;</a>",
            "<a>&#65;</a>",
            "<a>&amp</a>",
            "<!DOCTYPE a [<!ENTITY lol \"lol\">]><a>x</a>",
            "<b><!-- --><a>x</a></b>",
            "<b><![CDATA[<a>x</a>]]></b>",
        ] {
            assert_eq!(found(document, &["a"]), None, "{document}");
        }
        let deep = format!("{}<a>x</a>", "<b>".repeat(MAX_DEPTH));
        assert_eq!(found(&deep, &["a"]), None);
        assert_eq!(found(&deep[3..], &["a"]).unwrap(), "x");
    }

    proptest::proptest! {
        #[test]
        fn nothing_breaks_it(document in "[<>/!?&;a ]{0,40}") {
            let _ = text(&document, &["a"]);
        }
    }
}
