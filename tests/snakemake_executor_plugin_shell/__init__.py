# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""An executor of Snakemake, as a cluster's plugin is one: `--executor shell`.

A job is a shell of its own with what the plugin of a cluster would submit. EXECUTED names a file
that gets a line per job, the name of its stage. With APART set its jobs have no folder in common.
"""

import os
import subprocess

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs="APART" in os.environ,
    job_deploy_sources=False,
    pass_default_storage_provider_args=True,
    pass_default_resources_args=True,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
)


class Executor(RemoteExecutor):
    """Runs each job at once."""

    def run_job(self, job):
        with open(os.environ["EXECUTED"], "a", encoding="utf-8") as executed:
            executed.write(f"{job.rule.name}\n")
        process = subprocess.Popen(
            self.format_job_exec(job), shell=True, cwd=self.workflow.workdir_init
        )
        self.report_job_submission(SubmittedJobInfo(job, aux={"process": process}))

    async def check_active_jobs(self, active_jobs):
        for info in active_jobs:
            code = info.aux["process"].poll()
            if code is None:
                yield info
            elif code:
                self.report_job_error(info)
            else:
                self.report_job_success(info)

    def cancel_jobs(self, active_jobs):
        for info in active_jobs:
            info.aux["process"].terminate()
