//! Are capture files received and written as their formats say, and bad ones named?

use super::*;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock;
use std::borrow::Cow;
use std::fs;

const PORT: PortId = PortId(4);

fn pcap(path: &Path, link: DataLink, packets: &[&[u8]]) {
    let header = PcapHeader { datalink: link, ..PcapHeader::default() };
    let mut writer =
        PcapWriter::with_header(File::create(path).expect("file"), header).expect("header");
    for (i, data) in packets.iter().enumerate() {
        let stamp = Duration::from_millis(i as u64);
        writer.write_packet(&PcapPacket::new(stamp, data.len() as u32, data)).expect("packet");
    }
}

fn pcapng(path: &Path, links: &[DataLink], packets: &[(u32, &[u8])]) {
    let mut writer = PcapNgWriter::new(File::create(path).expect("file")).expect("header");
    for link in links {
        let block = InterfaceDescriptionBlock { linktype: *link, snaplen: 0, options: vec![] };
        writer.write_pcapng_block(block).expect("interface");
    }
    for (interface_id, data) in packets {
        let block = EnhancedPacketBlock {
            interface_id: *interface_id,
            timestamp: Duration::from_secs(1),
            original_len: data.len() as u32,
            data: Cow::Borrowed(data),
            options: vec![],
        };
        writer.write_pcapng_block(block).expect("packet");
    }
}

fn receive_all(queue: &mut PcapQueue) -> Vec<Vec<u8>> {
    let (mut pool, mut batch) = (Pool::new(4), Batch::new());
    let mut all = Vec::new();
    while !queue.finished() {
        queue.receive(&mut pool, &mut batch, 3).expect("readable");
        for packet in batch.drain(..) {
            assert_eq!(packet.in_port(), PORT);
            all.push(packet.bytes().to_vec());
            pool.give(packet);
        }
    }
    all
}

#[test]
fn a_capture_is_received_in_order_and_what_is_sent_is_written() {
    let dir = tempfile::tempdir().expect("folder");
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    pcap(&input, DataLink::RAW, &[&[1], &[2, 2], &[3, 3, 3], &[4]]);
    let mut queue = PcapQueue::open(PORT, &input, Some(&output)).expect("valid");
    assert_eq!((queue.framing(), queue.abilities()), (Framing::Ip, Abilities::default()));
    let (mut pool, mut batch) = (Pool::new(4), Batch::new());
    assert_eq!(queue.receive(&mut pool, &mut batch, 2), Ok(2));
    let sent = queue.transmit(&mut pool, &mut batch);
    assert_eq!((sent.packets, sent.bytes, sent.refused, pool.available()), (2, 3, 0, 4));
    assert_eq!(receive_all(&mut queue), [vec![3, 3, 3], vec![4]]);
    drop(queue);
    let mut written = PcapReader::new(File::open(&output).expect("file")).expect("pcap");
    assert_eq!(written.header().datalink, DataLink::RAW);
    for expected in [&[1][..], &[2, 2]] {
        let record = written.next_packet().expect("one more").expect("valid");
        assert_eq!((&*record.data, record.timestamp), (expected, Duration::from_millis(1)));
    }
    assert!(written.next_packet().is_none());
}

#[test]
fn pcapng_is_read_and_other_link_types_in_it_are_passed_over() {
    let dir = tempfile::tempdir().expect("folder");
    let input = dir.path().join("in");
    let packets: [(u32, &[u8]); 3] = [(0, &[1]), (1, &[2]), (0, &[3])];
    pcapng(&input, &[DataLink::ETHERNET, DataLink::RAW], &packets);
    let mut queue = PcapQueue::open(PORT, &input, None).expect("valid");
    assert_eq!(queue.framing(), Framing::Ethernet);
    assert_eq!(receive_all(&mut queue), [vec![1], vec![3]]);
    assert_eq!(queue.skipped(), 1);
}

#[test]
fn what_is_no_capture_is_named() {
    let dir = tempfile::tempdir().expect("folder");
    let input = dir.path().join("in");
    let open = || PcapQueue::open(PORT, &input, None).map(|_| ()).map_err(|e| e.to_string());
    assert!(open().expect_err("missing").contains("No such file"));
    fs::write(&input, b"hello, this is not a capture file").expect("file");
    assert!(open().expect_err("text").contains("not a pcap or pcapng file"));
    fs::write(&input, []).expect("file");
    assert!(open().is_err());
    pcap(&input, DataLink::USB_LINUX, &[]);
    assert!(open().expect_err("USB").contains("link type 189"));
    pcapng(&input, &[], &[]);
    assert!(open().expect_err("no interface").contains("no interface"));
}

#[test]
fn a_damaged_capture_is_played_up_to_the_damage() {
    let dir = tempfile::tempdir().expect("folder");
    let input = dir.path().join("in");
    pcap(&input, DataLink::RAW, &[&[1; 50], &[2; 50]]);
    let bytes = fs::read(&input).expect("file");
    fs::write(&input, &bytes[..bytes.len() - 20]).expect("file");
    let mut queue = PcapQueue::open(PORT, &input, None).expect("valid so far");
    assert_eq!(receive_all(&mut queue), [vec![1; 50]]);
}
