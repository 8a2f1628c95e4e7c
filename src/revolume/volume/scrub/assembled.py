"""A volume's scrubber, put together from the volume's parts."""

from __future__ import annotations

from revolume.volume.context import VolumeContext
from revolume.volume.heal.healer import Healer
from revolume.volume.heal.transfer_healer import TransferHealer
from revolume.volume.image.volume_image import VolumeImage
from revolume.volume.livemap.live_map import LiveMap
from revolume.volume.livemap.map_files import MapFiles
from revolume.volume.metadata.scrub_record import ScrubStage
from revolume.volume.open_log import OpenLog
from revolume.volume.rescue.rescued_blocks import RescuedBlocks
from revolume.volume.scrub.image_stage import ImageStage
from revolume.volume.scrub.log_stage import LogStage
from revolume.volume.scrub.map_stages import MapsStage, branches_stage, rescued_stage
from revolume.volume.scrub.scrubber import Scrubber
from revolume.volume.space.space_parts import SpaceParts
from revolume.volume.state.events import Events


def scrubber(
    context: VolumeContext,
    *,
    log: OpenLog,
    image: VolumeImage,
    rescued: RescuedBlocks,
    live: LiveMap,
    maps: MapFiles,
    space: SpaceParts,
    healer: Healer,
    transfer_healer: TransferHealer,
    events: Events,
) -> Scrubber:
    """The scrubber of an open volume."""
    return Scrubber(
        clock=context.host.clock,
        manifest=log.manifest,
        log_stage=LogStage(context.log_directory, log, image),
        stages={
            ScrubStage.IMAGE: ImageStage(context, log=log, image=image, ranges=space.ranges, folder=space.folder),
            ScrubStage.RESCUED: rescued_stage(context.directory, log, rescued),
            ScrubStage.MAPS: MapsStage(
                context,
                log=log,
                live=live,
                maps=maps,
                renewal=space.base_maps,
                rungs=space.rungs,
                ladder=space.ladder,
            ),
            ScrubStage.BRANCHES: branches_stage(context.directory, log),
        },
        healer=healer,
        transfer_healer=transfer_healer,
        events=events,
    )
