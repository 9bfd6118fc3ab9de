//! A place in bytes that never runs past their end.

use super::TorchError;

#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next `len` bytes.
    pub(super) fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], TorchError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..len).ok_or(TorchError::CutShort { what, at: self.at })?;
        self.at += len;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], TorchError> {
        let at = self.at;
        self.take(N, what)?.try_into().map_err(|_| TorchError::CutShort { what, at })
    }

    pub(super) fn u8(&mut self, what: &'static str) -> Result<u8, TorchError> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, TorchError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, TorchError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn i32(&mut self, what: &'static str) -> Result<i32, TorchError> {
        Ok(i32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, TorchError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn i64(&mut self, what: &'static str) -> Result<i64, TorchError> {
        Ok(i64::from_le_bytes(self.array(what)?))
    }

    /// The bytes before the next line feed, of which at most `limit` are looked through.
    pub(super) fn line(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], TorchError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let len = rest.iter().take(limit).position(|&byte| byte == b'\n');
        let len = len.ok_or(match rest.len() < limit {
            true => TorchError::CutShort { what, at: self.at },
            false => TorchError::Limit { what: "characters in one name of its pickle", limit },
        })?;
        let line = self.take(len, what)?;
        self.at += 1;
        Ok(line)
    }
}
