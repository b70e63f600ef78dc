//! Objects at rest.
//!
//! A cache holds many thousands of objects and reads one at a time. Decoded, an object takes kilobytes. As text, most of it is
//! what all objects of its kind have in common: the names of the fields, the defaults, the messages. So an object is kept as
//! compressed JSON, with the text of a sample as the dictionary. That takes some hundred bytes, and a few microseconds to read.

use lz4_flex::block::{compress_with_dict, decompress_with_dict};

/// The text of an object, compressed.
#[derive(Debug)]
pub struct Packed {
    bytes: Box<[u8]>,
    /// The length of the text.
    len: u32,
}

impl Packed {
    /// Compresses a text. The dictionary is a text like it.
    pub fn new(text: &[u8], dictionary: &[u8]) -> Self {
        let len = u32::try_from(text.len()).expect("an object in etcd has less than 4 GiB");
        Self { bytes: compress_with_dict(text, dictionary).into(), len }
    }

    /// The text, by the dictionary that it was compressed with.
    pub fn text(&self, dictionary: &[u8]) -> Vec<u8> {
        decompress_with_dict(&self.bytes, self.len as usize, dictionary).expect("what was compressed here")
    }

    /// Bytes that it takes.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}
