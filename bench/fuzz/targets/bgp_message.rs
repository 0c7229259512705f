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
    let decoded = message::decode(&whole, &context);
    let mut again = Vec::new();
    match &decoded {
        Ok(Message::Open(open)) => message::encode_open(open, &mut again),
        Ok(Message::Notification(notification)) | Err(notification) => {
            message::encode_notification(notification, &mut again);
        }
        Ok(Message::Keepalive) => message::encode_keepalive(&mut again),
        Ok(Message::Update(_) | Message::RouteRefresh(_)) => return,
    }
    let read = message::decode(&again, &context).expect("what we write, we read");
    match decoded {
        Ok(message) => assert_eq!(read, message),
        Err(notification) => assert_eq!(read, Message::Notification(notification)),
    }
});
