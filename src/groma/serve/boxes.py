"""`POST /locate`, `/describe`, `/regions`: for those who want boxes."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from groma.engine.ticket import Answered, Job
from groma.inference.assistant import DESCRIBE
from groma.inference.request import check_boxes_xyxy_px
from groma.inference.result import GroundedAnswer
from groma.inference.turns import located, locating
from groma.serve.bodies import DescribeBody, LocateBody, RegionsBody
from groma.serve.chat import region_dict, usage_dict, was_clipped
from groma.serve.reading import read_with_picture
from groma.serve.service import Service


async def locate(request: Request, service: Service) -> Response:
    """Where is it?

    Raises:
        GromaError: it cannot be answered.
    """
    body, picture = await read_with_picture(request, LocateBody, service.pictures, service.engine)
    exchange = locating(body.phrase, all=body.all)
    (answer,) = await _answered(request, service, [service.engine.job(picture, exchange)])
    return JSONResponse(located(answer, body.phrase.strip(), all=body.all).to_dict())


async def describe(request: Request, service: Service) -> Response:
    """What is in these boxes?

    Raises:
        GromaError: it cannot be answered.
    """
    body, picture = await read_with_picture(request, DescribeBody, service.pictures, service.engine)
    boxes_xyxy_px = check_boxes_xyxy_px(body.boxes, *picture.size_px, limit=len(body.boxes))
    jobs = [service.engine.question(picture, DESCRIBE, box[None], grounded=False) for box in boxes_xyxy_px]
    answers = await _answered(request, service, jobs)
    clipped = was_clipped(body.boxes, boxes_xyxy_px.tolist())
    told = [f"box {number + 1} reaches beyond the picture and was clipped to it" for number in clipped]
    warnings = {"warnings": told} if told else {}
    return JSONResponse({"descriptions": [answer.to_dict() for answer in answers], **warnings})


async def regions(request: Request, service: Service) -> Response:
    """What did the proposer find?

    Raises:
        GromaError: the picture cannot be used.
    """
    body, picture = await read_with_picture(request, RegionsBody, service.pictures, service.engine)
    (found,) = await _run(request, service, [service.engine.job(picture, None)])
    kept = [region_dict(region) for region in found.regions if region.objectness >= body.min_objectness]
    return JSONResponse({"image_size_px": list(picture.size_px), "regions": kept})


async def _answered(request: Request, service: Service, jobs: list[Job]) -> list[GroundedAnswer]:
    ends = await _run(request, service, jobs)
    request.state.logged = usage_dict(ends)
    return [end.answer for end in ends if end.answer is not None]


async def _run(request: Request, service: Service, jobs: list[Job]) -> list[Answered]:
    asker = service.asker(request)
    return await service.run([asker.asking(job) for job in jobs], request)
