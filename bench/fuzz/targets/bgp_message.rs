//! Can bytes from a peer break the BGP decoder, and does it read what it wrote?
#![no_main]

use libfuzzer_sys::fuzz_target;
use slowpath::bgp::message::{self, Context, HEADER, MAX_MESSAGE, Message};

fuzz_target!(|input: &[u8]| {
    let [flags, kind, body @ ..] = input else { return };
    let context = Context {
        four_byte_as: flags & 1 != 0,
        internal: flags & 2 != 0,
        add_path_receive: [flags & 4 != 0, flags & 8 != 0],
    };
    // As it comes: mostly the marker is wrong.
    _ = message::frame(body);
    _ = message::decode(body, &context);
    // With a header that is in order, so that every byte of the body counts.
    let length = HEADER + body.len();
    if length > MAX_MESSAGE {
        return;
    }
    let mut whole = vec![0xFF; 16];
    whole.extend(u16::try_from(length).expect("bounded above").to_be_bytes());
    whole.push(*kind);
    whole.extend(body);
    match message::decode(&whole, &context) {
        // What we don't understand of an OPEN is not kept: the second reading is the last word.
        Ok(Message::Open(open)) => {
            let Message::Open(ours) = again(&context, |out| message::encode_open(&open, out))
            else {
                panic!("an OPEN became something else");
            };
            let read = again(&context, |out| message::encode_open(&ours, out));
            assert_eq!(read, Message::Open(ours));
        }
        Ok(Message::Notification(notification)) | Err(notification) => {
            let read = again(&context, |out| message::encode_notification(&notification, out));
            assert_eq!(read, Message::Notification(notification));
        }
        Ok(Message::Keepalive) => {
            assert_eq!(again(&context, message::encode_keepalive), Message::Keepalive);
        }
        Ok(Message::Update(_) | Message::RouteRefresh(_)) => {}
    }
});

/// Writes a message and reads it: what we write, we read.
fn again(context: &Context, write: impl FnOnce(&mut Vec<u8>)) -> Message {
    let mut bytes = Vec::new();
    write(&mut bytes);
    message::decode(&bytes, context).expect("our own message is in order")
}
