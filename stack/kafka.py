"""Kafka: one KRaft node, broker and controller in one, that writes each record to disk before it acknowledges it."""

import asyncio
import base64
import functools
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aiokafka.client import AIOKafkaClient

from stack import packages
from stack.errors import MissingPackagesError, StackError
from stack.locks import exclusive_file
from stack.paths import kafka_libs_dir, write_private
from stack.ports import LOOPBACK
from stack.process import run_to_end
from stack.supervisor import ChildSpec

POM: Final = Path(__file__).with_name("kafka-pom.xml")
LOG4J: Final = Path(__file__).with_name("kafka-log4j2.xml")
DOWNLOAD_TIMEOUT_S: Final = 900.0
FORMAT_TIMEOUT_S: Final = 120.0
METADATA_TIMEOUT_MS: Final = 4_000
CLOSE_TIMEOUT_S: Final = 2.0
TOOLS: Final = {
    "configs": "kafka.admin.ConfigCommand",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "topics": "org.apache.kafka.tools.TopicCommand",
}
# A short compiler and a simple collector start faster and leave the few cores of one machine to others.
_JVM: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Djava.net.preferIPv4Stack=true",
    f"-Dlog4j2.configurationFile={LOG4J}",
)


def libs() -> Path:
    """Where the pinned version's program files lie once they are there."""
    pin = re.search(r"<kafka\.version>([^<]+)<", POM.read_text(encoding="utf-8"))
    if pin is None:
        raise StackError(f"{POM.name} names no kafka.version")
    return kafka_libs_dir() / pin[1]


async def ensure_libs(*, log: Path, note: Callable[[str], None]) -> None:
    """Fetch Kafka from Maven Central unless it is cached; several at once are safe.

    Raises:
        ChildFailed: Maven failed.
    """
    target = libs()
    if target.exists():
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with exclusive_file(target.with_name("lock"), timeout_s=DOWNLOAD_TIMEOUT_S):
        if target.exists():
            return
        note(f"fetching Kafka {target.name} from Maven Central")
        part = target.with_name(f"{target.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        argv = (packages.program("mvn"), "-q", "-B", "-ntp", "-C", "-f", str(POM), "dependency:copy-dependencies")
        await run_to_end("mvn", (*argv, f"-DoutputDirectory={part}"), log=log, timeout_s=DOWNLOAD_TIMEOUT_S)
        part.rename(target)


def _config(ports: tuple[int, int], log_dir: Path) -> str:
    broker, controller = ports
    return f"""\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{controller}
listeners=BROKER://{LOOPBACK}:{broker},CONTROLLER://{LOOPBACK}:{controller}
advertised.listeners=BROKER://{LOOPBACK}:{broker}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={str(log_dir).replace(chr(92), chr(92) * 2)}
log.flush.interval.messages=1
log.retention.ms=-1
log.cleaner.dedupe.buffer.size=8388608
num.partitions=6
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=4
"""


async def prepare(home: Path, ports: tuple[int, int]) -> None:
    """Format the storage when there is none yet, and write the configuration.

    Args:
        home: the stack's home.
        ports: of the broker and of the controller.

    Raises:
        ChildFailed: formatting failed.
    """
    data = home / "kafka"
    if not data.exists():
        part = home / "kafka.part"
        shutil.rmtree(part, ignore_errors=True)
        formatting = home / "kafka-format.properties"
        write_private(formatting, _config(ports, part))
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode().replace("-", "A")
        await run_to_end(
            "kafka-storage format",
            java_argv("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(formatting)),
            log=home / "logs" / "kafka-format.log",
            timeout_s=FORMAT_TIMEOUT_S,
        )
        part.rename(data)
        formatting.unlink()
    write_private(home / "kafka.properties", _config(ports, data))


def spec(home: Path, ports: tuple[int, int]) -> ChildSpec:
    """How to run it."""
    return ChildSpec(
        name="kafka",
        argv=java_argv("kafka.Kafka", str(home / "kafka.properties"), heap=("-Xms256m", "-Xmx512m")),
        log=home / "logs" / "kafka.log",
        ready=functools.partial(answers, ports[0]),
        ready_timeout_s=90.0,
        stop_timeout_s=30.0,
    )


def java_argv(main_class: str, *args: str, heap: Sequence[str] = ("-Xmx256m",)) -> tuple[str, ...]:
    """The command line of one of Kafka's programs.

    Raises:
        MissingPackagesError: there is no Java.
    """
    java = packages.java()
    if java is None:
        raise MissingPackagesError("java is missing; run: apt-get install -y default-jre-headless")
    return (java, *heap, *_JVM, "-cp", f"{libs()}{os.sep}*", main_class, *args)


async def answers(port: int) -> bool:
    """Whether metadata are served and name a live broker."""
    _, writer = await asyncio.open_connection(LOOPBACK, port)  # the client below would log each refusal
    writer.close()
    client = AIOKafkaClient(bootstrap_servers=f"{LOOPBACK}:{port}", request_timeout_ms=METADATA_TIMEOUT_MS)
    try:
        await client.bootstrap()
        return len(client.cluster.brokers()) > 0
    finally:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.close()
