use guest::frame::{
    Bridge, Decoder, Ended, Failed, Frame, FrameError, How, MAX_FROM_HELPER, MAX_TO_HELPER, Order, Plan, Step,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8..=255, 0..40)
}

fn bridge() -> impl Strategy<Value = Bridge> {
    prop_oneof![
        Just(Bridge::None),
        Just(Bridge::Builtin),
        Just(Bridge::BuiltinWithNetwork),
        (text(), text()).prop_map(|(program, socket)| Bridge::Socat { program, socket }),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let plan = (bridge(), text(), text(), text(), vec(text(), 0..5), vec(text(), 0..5), any::<u64>(), any::<bool>())
        .prop_map(|(bridge, cwd, shell, script, environment, writable, processes, own_network)| {
            Frame::Plan(Plan { bridge, cwd, shell, script, environment, writable, processes, own_network })
        });
    let how = prop_oneof![any::<u8>().prop_map(How::Code), (1_u8..=64).prop_map(How::Signal)];
    let ended = (how, any::<[u64; 5]>()).prop_map(
        |(how, [user_micros, system_micros, max_rss_kib, oom_kills, pids_refused])| {
            Frame::Exited(Ended { how, user_micros, system_micros, max_rss_kib, oom_kills, pids_refused })
        },
    );
    let step = prop_oneof![
        Just(Step::Listen),
        Just(Step::PassListener),
        Just(Step::StartSocat),
        Just(Step::AwaitSocat),
        Just(Step::EnterCwd),
        Just(Step::Fork),
        Just(Step::Plan),
        Just(Step::OpenNetwork)
    ];
    let failed = (step, any::<u16>()).prop_map(|(step, errno)| Frame::Failed(Failed { step, errno }));
    prop_oneof![
        plan,
        Just(Frame::Release),
        Just(Frame::Signal(Order::Terminate)),
        Just(Frame::Signal(Order::Kill)),
        Just(Frame::Listener),
        Just(Frame::Network),
        Just(Frame::Ready),
        ended,
        failed
    ]
}

/// Decodes a stream that comes in pieces of the given sizes.
fn decode(bytes: &[u8], sizes: &[usize], max: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut decoder, mut frames, mut rest, mut sizes) = (Decoder::new(max), Vec::new(), bytes, sizes.iter().cycle());
    while !rest.is_empty() {
        let size = sizes.next().copied().unwrap_or(1).clamp(1, rest.len());
        decoder.push(&rest[..size]);
        rest = &rest[size..];
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_was_encoded_comes_out_however_it_is_split(frames in vec(frame(), 1..6), sizes in vec(1_usize..50, 1..8)) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        prop_assert_eq!(decode(&bytes, &sizes, MAX_TO_HELPER), (frames, None));
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in vec(any::<u8>(), 0..400)) {
        let (frames, _) = decode(&bytes, &[7], MAX_FROM_HELPER);
        let again: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        prop_assert!(bytes.starts_with(&again));
    }

    #[test]
    fn one_changed_byte_never_makes_a_longer_stream(frame in frame(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = frame.encode();
        let at = at.index(bytes.len());
        bytes[at] = value;
        let (frames, _) = decode(&bytes, &[64], MAX_TO_HELPER);
        prop_assert!(frames.len() <= 1);
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    let table: &[(&[u8], FrameError)] = &[
        (&[2, 17, 0, 0, 0, 0], FrameError::Version(2)),
        (&[1, 99, 0, 0, 0, 0], FrameError::Kind(99)),
        (&[1, 17, 1, 1, 0, 0], FrameError::TooLarge(257)),
        (&[1, 17, 255, 255, 255, 255], FrameError::TooLarge(u32::MAX)),
        (&[1, 17, 1, 0, 0, 0, 0], FrameError::Payload(17)),
        (&[1, 3, 1, 0, 0, 0, 2], FrameError::Payload(3)),
        (&[1, 19, 3, 0, 0, 0, 9, 0, 0], FrameError::Payload(19)),
        (&[1, 19, 2, 0, 0, 0, 1, 0], FrameError::Payload(19)),
        (&[1, 1, 5, 0, 0, 0, 0, 255, 255, 255, 255], FrameError::Payload(1)),
    ];
    for (bytes, expected) in table {
        assert_eq!(decode(bytes, &[64], MAX_FROM_HELPER), (vec![], Some(*expected)), "{bytes:?}");
    }
}

#[test]
fn a_nul_byte_in_a_plan_is_refused() {
    let plan = Plan { script: b"a\0b".to_vec(), ..Plan::default() };
    assert_eq!(decode(&Frame::Plan(plan).encode(), &[64], MAX_TO_HELPER).1, Some(FrameError::Payload(1)));
}
