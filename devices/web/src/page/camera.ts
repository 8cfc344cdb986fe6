/** Images from the camera. */

import { byId } from './dom.ts';

/**
 * Let the camera's dialog open and its images be received.
 *
 * @param receive Called with each image that is taken.
 * @param fail Called with the reason why there is no camera.
 */
export function setUpCamera(receive: (file: File) => void, fail: (error: Error) => void): void {
  const dialog = byId<HTMLDialogElement>('camera-dialog');
  const video = byId<HTMLVideoElement>('video');
  const shoot = byId<HTMLButtonElement>('shoot');
  let stream: MediaStream | null = null;
  let taken = 0;

  byId('camera').addEventListener('click', () => {
    if (!navigator.mediaDevices) {
      fail(new Error('no camera: browsers give it to pages from https:// and localhost only'));
      return;
    }
    navigator.mediaDevices
      .getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1280 } } })
      .then((opened) => {
        stream = opened;
        video.srcObject = opened;
        shoot.disabled = true;
        dialog.showModal();
      })
      .catch((error: Error) => fail(new Error(`no camera: ${error.message}; allow it and try again`)));
  });
  byId('close-camera').addEventListener('click', () => dialog.close());
  dialog.addEventListener('close', () => {
    stream?.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    stream = null;
  });
  video.addEventListener('loadeddata', () => {
    shoot.disabled = false;
  });
  shoot.addEventListener('click', () => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
    canvas.getContext('2d')!.drawImage(video, 0, 0);
    canvas.toBlob((blob) => {
      taken += 1;
      // PNG: the pixels that are trained on are those that any reader of the file sees.
      if (blob) receive(new File([blob], `camera-${Date.now()}-${taken}.png`, { type: 'image/png' }));
    }, 'image/png');
  });
}
