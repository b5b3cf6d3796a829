//! A record as librdkafka lends it: the same as `BorrowedMessage` of the safe bindings shows.

use std::ffi::{CStr, c_char, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

use rdkafka::bindings::{self, rd_kafka_resp_err_t, rd_kafka_timestamp_type_t};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// A record of a partition, or an error that takes its place.
pub struct Record<'a> {
    message: NonNull<bindings::rd_kafka_message_t>,
    lent: PhantomData<&'a bindings::rd_kafka_message_t>,
}

impl<'a> Record<'a> {
    /// # Safety
    /// The pointer leads to a message of librdkafka's that nobody changes or destroys while `'a` lasts.
    pub(crate) unsafe fn new(message: &'a NonNull<bindings::rd_kafka_message_t>) -> Self {
        Self { message: *message, lent: PhantomData }
    }

    /// The error that came instead of a record, as `BaseConsumer::poll` would give it. All but the partition and, of an
    /// error about fetched data, the offset is to be left alone then.
    pub fn error(&self) -> Option<KafkaError> {
        // Read as a number: a broker may send a code that the enumeration of the bindings does not have.
        // SAFETY: the message lives (see `new`), and the field is as wide as the number.
        let code = unsafe { (&raw const (*self.message.as_ptr()).err).cast::<i32>().read() };
        match rd_kafka_resp_err_t::try_from(code) {
            Ok(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR) => None,
            Ok(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF) => Some(KafkaError::PartitionEOF(self.partition())),
            Ok(code) => Some(KafkaError::MessageConsumption(code.into())),
            Err(_) => Some(KafkaError::MessageConsumption(RDKafkaErrorCode::Unknown)),
        }
    }

    /// The partition.
    pub fn partition(&self) -> i32 {
        // SAFETY: the message lives (see `new`).
        unsafe { (*self.message.as_ptr()).partition }
    }

    /// The offset there. Of an error about fetched data: the offset of the data that cannot be read.
    pub fn offset(&self) -> i64 {
        // SAFETY: the message lives (see `new`).
        unsafe { (*self.message.as_ptr()).offset }
    }

    /// Its time, in milliseconds since 1970; `None` when it has none.
    pub fn timestamp_ms(&self) -> Option<i64> {
        self.time().0
    }

    /// Its time, and whether that is the broker's (`LogAppendTime`), not the producer's.
    pub fn time(&self) -> (Option<i64>, bool) {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message lives (see `new`), and the type has its place.
        let time = unsafe { bindings::rd_kafka_message_timestamp(self.message.as_ptr(), &raw mut kind) };
        ((time != -1).then_some(time), kind == rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
    }

    /// The key.
    pub fn key(&self) -> Option<&[u8]> {
        // SAFETY: the message lives (see `new`).
        let (key, length) = unsafe { ((*self.message.as_ptr()).key, (*self.message.as_ptr()).key_len) };
        // SAFETY: librdkafka says so many bytes, and they live as long as the message.
        unsafe { bytes(key, length) }
    }

    /// The payload.
    pub fn payload(&self) -> Option<&[u8]> {
        // SAFETY: the message lives (see `new`).
        let (payload, length) = unsafe { ((*self.message.as_ptr()).payload, (*self.message.as_ptr()).len) };
        // SAFETY: librdkafka says so many bytes, and they live as long as the message.
        unsafe { bytes(payload, length) }
    }

    /// Copies the headers, in their order. A name that is no UTF-8 is made so.
    pub fn headers(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message lives (see `new`). It keeps the headers that it reads, until it is destroyed.
        let code = unsafe { bindings::rd_kafka_message_headers(self.message.as_ptr(), &raw mut headers) };
        if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Vec::new();
        }
        // SAFETY: the headers live as long as the message.
        (0..).map_while(|position| unsafe { header(headers, position) }).collect()
    }
}

/// # Safety
/// The headers live during the call.
unsafe fn header(headers: *const bindings::rd_kafka_headers_t, position: usize) -> Option<(String, Option<Vec<u8>>)> {
    let (mut name, mut value, mut length) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0);
    // SAFETY: the headers live, and each place has its type.
    let code = unsafe { bindings::rd_kafka_header_get_all(headers, position, &raw mut name, &raw mut value, &raw mut length) };
    if code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return None;
    }
    // SAFETY: librdkafka ends a name with NUL, and keeps it with the headers.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
    // SAFETY: librdkafka says so many bytes, and keeps them with the headers.
    Some((name, unsafe { bytes(value, length) }.map(<[u8]>::to_vec)))
}

/// # Safety
/// The pointer is null, or leads to so many bytes that live and do not change while `'a` lasts.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as the caller promises.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
}
