//! The body of a control message: what is understood is written as it was read.

#![no_main]

use ha_daemon::core::message::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(message) = Message::decode(bytes) {
        let again = Message::decode(&message.encode());
        assert_eq!(again.as_ref().ok(), Some(&message));
    }
});
