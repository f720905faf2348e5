//! What an archive says about its next entry: long names of GNU, records of POSIX (pax). Pure.

use super::member::Refusal;

/// The longest extension that is read into memory. A name has at most 4096 bytes; attributes, which are not used, may
/// take 64 KiB.
pub(super) const MAX_EXTENSION_BYTES: u64 = 256 * 1024;

/// What has been said about the entry to come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) name: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    /// The size of its data, where a record names one.
    pub(super) size: Option<u64>,
}

impl Extensions {
    /// A long name (`L`) or long link (`K`) of GNU: up to the first zero byte.
    pub(super) fn gnu(field: &mut Option<Vec<u8>>, data: &[u8]) -> Result<(), Refusal> {
        let text = data.split(|byte| *byte == 0).next().unwrap_or_default();
        if field.replace(text.to_owned()).is_some() {
            return Err(Refusal::Malformed("two long names for one entry"));
        }
        Ok(())
    }

    /// The records of POSIX: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record. A value may hold any byte.
    pub(super) fn pax(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        let malformed = Refusal::Malformed("a record that does not say its length and key");
        while !data.is_empty() {
            let space = data.iter().take(20).position(|byte| *byte == b' ');
            let digits = space.and_then(|at| std::str::from_utf8(data.get(..at)?).ok());
            let length = digits.and_then(|digits| digits.parse::<usize>().ok());
            let (Some(space), Some(length)) = (space, length) else { return Err(malformed) };
            let record = data.get(space + 1..length).and_then(|record| record.strip_suffix(b"\n"));
            let equals = record.and_then(|record| record.iter().position(|byte| *byte == b'='));
            let (Some(record), Some(equals)) = (record, equals) else { return Err(malformed) };
            let (key, value) = (record.get(..equals).unwrap_or_default(), record.get(equals + 1..).unwrap_or_default());
            self.record(key, value)?;
            data = data.get(length..).unwrap_or_default();
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Refusal> {
        match key {
            b"path" => self.name = Some(value.to_owned()),
            b"linkpath" => self.link = Some(value.to_owned()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                self.size = Some(size.ok_or(Refusal::Malformed("a size that is no number"))?);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(Refusal::Sparse),
            // Times, owners and attributes: the tree is the daemon's, and has none.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let mut found = Extensions::default();
        found.pax(b"12 path=a/b\n14 linkpath=x\n11 size=12\n27 SCHILY.xattr.user.x=\n=\n\n").unwrap();
        let expected = Extensions { name: Some(b"a/b".to_vec()), link: Some(b"x".to_vec()), size: Some(12) };
        assert_eq!(found, expected);
        // An empty value takes a name away; the entry is then refused for having none.
        found.pax(b"8 path=\n").unwrap();
        assert_eq!(found.name.as_deref(), Some(&b""[..]));
    }

    #[test]
    fn malformed_records_are_refused() {
        for data in [
            &b"x"[..],
            b"12 path=a/b",
            b"13 path=a/b\n",
            b"11 path=a/b\n",
            b"0 path=a\n",
            b"3 \n",
            b"7 path\n",
            b"-7 a=b\n",
            b"99999999999999999999 path=a\n",
            b"18446744073709551615 path=a\n",
            b"9 size=x\n",
            b"22 GNU.sparse.major=1\n",
        ] {
            assert!(Extensions::default().pax(data).is_err(), "{}", data.escape_ascii());
        }
        let mut name = None;
        Extensions::gnu(&mut name, b"long/name\0\0").unwrap();
        assert_eq!(name.as_deref(), Some(&b"long/name"[..]));
        assert!(Extensions::gnu(&mut name, b"again\0").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            Extensions::default().pax(&data).ok();
        }

        #[test]
        fn any_value_comes_through(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let rest = [b" path=", &value[..], b"\n"].concat();
            // The length counts its own digits.
            let length = (1..4).map(|digits| rest.len() + digits).find(|n| n.to_string().len() + rest.len() == *n);
            let record = [length.unwrap().to_string().as_bytes(), &rest[..]].concat();
            let mut found = Extensions::default();
            found.pax(&record).unwrap();
            prop_assert_eq!(found.name, Some(value));
        }
    }
}
